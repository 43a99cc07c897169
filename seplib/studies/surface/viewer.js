// A solid to turn with pointer, fingers or keys (Fig. 3): triangles drawn into a canvas with a depth buffer, without WebGL and
// without any other file, so that it works in the offline book and in a notebook alike.
(root => {
  const canvas = root.querySelector("canvas"), context = canvas.getContext("2d");
  const stored = JSON.parse(root.querySelector("script[type='application/json']").textContent);
  const bytes = text => Uint8Array.from(atob(text), letter => letter.charCodeAt(0)).buffer;
  const pointers = new Map(), meshes = {};
  let yaw = stored.yaw, pitch = stored.pitch, zoom = 1, shown = null, waiting = false, gap = 0;

  // Positions in [-1, 1] with the second coordinate upward, and a normal for each vertex.
  const mesh = name => {
    if (meshes[name]) return meshes[name];
    const raw = new Uint16Array(bytes(stored.meshes[name].vertices)), faces = new Uint16Array(bytes(stored.meshes[name].faces));
    const points = Float32Array.from(raw, value => value / 32767.5 - 1), normals = new Float32Array(points.length);
    for (let f = 0; f < faces.length; f += 3) {
      const [a, b, c] = [3 * faces[f], 3 * faces[f + 1], 3 * faces[f + 2]];
      const u = [0, 1, 2].map(d => points[b + d] - points[a + d]), v = [0, 1, 2].map(d => points[c + d] - points[a + d]);
      for (let d = 0; d < 3; d++) {
        const e = (d + 1) % 3, g = (d + 2) % 3, n = u[e] * v[g] - u[g] * v[e];
        normals[a + d] += n; normals[b + d] += n; normals[c + d] += n;
      }
    }
    return meshes[name] = { points, normals, faces };
  };

  const draw = () => {
    waiting = false;
    const { points, normals, faces } = mesh(shown), scale = Math.min(window.devicePixelRatio || 1, 2);
    const size = Math.max(1, Math.round(canvas.clientWidth * scale));
    if (canvas.width !== size) canvas.width = canvas.height = size;
    const image = context.createImageData(size, size), pixels = new Uint32Array(image.data.buffer);
    const depth = new Float32Array(size * size).fill(-Infinity), count = points.length / 3, screen = new Float32Array(4 * count);
    const [cy, sy, cp, sp] = [Math.cos(yaw), Math.sin(yaw), Math.cos(pitch), Math.sin(pitch)];
    const turned = (from, i) => {
      const x = cy * from[i] + sy * from[i + 2], z = cy * from[i + 2] - sy * from[i];
      return [x, cp * from[i + 1] - sp * z, sp * from[i + 1] + cp * z];
    };
    for (let i = 0; i < count; i++) {
      const [x, y, z] = turned(points, 3 * i), [nx, ny, nz] = turned(normals, 3 * i);
      const light = (-0.35 * nx + 0.55 * ny + 0.76 * nz) / (Math.hypot(nx, ny, nz) || 1);
      screen.set([size / 2 * (1 + 0.85 * zoom * x), size / 2 * (1 - 0.85 * zoom * y), z, 62 + 150 * Math.max(0, light)], 4 * i);
    }
    for (let f = 0; f < faces.length; f += 3) {
      const [a, b, c] = [4 * faces[f], 4 * faces[f + 1], 4 * faces[f + 2]];
      const [ax, ay, bx, by, cx, cy2] = [screen[a], screen[a + 1], screen[b], screen[b + 1], screen[c], screen[c + 1]];
      const area = (bx - ax) * (cy2 - ay) - (by - ay) * (cx - ax);
      if (!area) continue;
      const top = Math.max(0, Math.ceil(Math.min(ay, by, cy2))), bottom = Math.min(size - 1, Math.floor(Math.max(ay, by, cy2)));
      const left = Math.max(0, Math.ceil(Math.min(ax, bx, cx))), right = Math.min(size - 1, Math.floor(Math.max(ax, bx, cx)));
      for (let y = top; y <= bottom; y++) for (let x = left; x <= right; x++) {
        const u = ((bx - x) * (cy2 - y) - (by - y) * (cx - x)) / area, v = ((cx - x) * (ay - y) - (cy2 - y) * (ax - x)) / area;
        const w = 1 - u - v;
        if (u < 0 || v < 0 || w < 0) continue;
        const z = u * screen[a + 2] + v * screen[b + 2] + w * screen[c + 2], at = y * size + x;
        if (z <= depth[at]) continue;
        depth[at] = z;
        const tone = u * screen[a + 3] + v * screen[b + 3] + w * screen[c + 3];
        pixels[at] = 0xff000000 | Math.min(255, tone * 1.06) << 16 | tone << 8 | tone * 0.94;
      }
    }
    context.putImageData(image, 0, 0);
  };
  const ask = () => { if (!waiting) { waiting = true; requestAnimationFrame(draw); } };
  const turn = (right, up) => { yaw += right; pitch = Math.max(-1.5, Math.min(1.5, pitch + up)); ask(); };
  const enlarge = factor => { zoom = Math.max(0.5, Math.min(8, zoom * factor)); ask(); };
  const reset = () => { [yaw, pitch, zoom] = [stored.yaw, stored.pitch, 1]; ask(); };
  const show = name => {
    shown = name;
    for (const button of root.querySelectorAll("button")) {
      button.setAttribute("aria-pressed", button.value === name);
      button.style.fontWeight = button.value === name ? 700 : 400;
    }
    ask();
  };

  const keys = {
    ArrowLeft: () => turn(-0.1, 0), ArrowRight: () => turn(0.1, 0), ArrowUp: () => turn(0, -0.1), ArrowDown: () => turn(0, 0.1),
    "+": () => enlarge(1.15), "=": () => enlarge(1.15), "-": () => enlarge(1 / 1.15), 0: reset,
  };
  canvas.addEventListener("keydown", event => {
    if (!keys[event.key] || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault(); event.stopPropagation();  // arrows would scroll, and the book turns its pages with them
    keys[event.key]();
  });
  canvas.addEventListener("pointerdown", event => { canvas.setPointerCapture(event.pointerId); pointers.set(event.pointerId, event); gap = 0; });
  canvas.addEventListener("pointermove", event => {
    const before = pointers.get(event.pointerId);
    if (!before) return;
    pointers.set(event.pointerId, event);
    if (pointers.size === 1) return turn((event.clientX - before.clientX) / 150, (event.clientY - before.clientY) / 150);
    const [one, two] = pointers.values(), distance = Math.hypot(one.clientX - two.clientX, one.clientY - two.clientY);
    if (gap) enlarge(distance / gap);
    gap = distance;
  });
  for (const end of ["pointerup", "pointercancel"]) canvas.addEventListener(end, event => { pointers.delete(event.pointerId); gap = 0; });
  canvas.addEventListener("wheel", event => {
    if (document.activeElement !== canvas) return;  // until the solid is chosen, the wheel scrolls the page
    event.preventDefault();
    enlarge(Math.exp(-event.deltaY / 500));
  }, { passive: false });
  canvas.addEventListener("dblclick", reset);
  for (const button of root.querySelectorAll("button")) button.addEventListener("click", () => show(button.value));
  new ResizeObserver(ask).observe(canvas);
  show(Object.keys(stored.meshes)[0]);
})(document.getElementById("ROOT"));
