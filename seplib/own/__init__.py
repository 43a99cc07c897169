"""The command for pictures, arrays and meshes of one's own."""
