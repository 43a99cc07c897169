"""What goes beyond the paper on images: noise, runs from inside, Adam's memory."""
