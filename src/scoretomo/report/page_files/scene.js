// Surfaces in 3D. One WebGL context draws for all scenes, each of which shows the result in a canvas of its own, since
// browsers allow a page few contexts. The view is parallel, as in a microscope: x to the right, y up, z to the viewer.

const VERTEX_SHADER = `#version 300 es
in vec3 position; in vec3 normal; in vec2 shade;
uniform mat3 turn; uniform vec2 scale; uniform float depth;
out vec3 n; out vec2 s; out float behind;
void main() {
  vec3 p = turn * position;
  n = turn * normal; s = shade; behind = -p.z / depth;
  gl_Position = vec4(p.xy * scale, behind, 1.0);
}`;

const PIXEL_SHADER = `#version 300 es
precision highp float;
in vec3 n; in vec2 s; in float behind;
uniform vec3 colour; uniform vec3 moving; uniform float varies; uniform float dark;
out vec4 pixel;
void main() {
  vec3 normal = normalize(n);
  if (normal.z < 0.0) normal = -normal;
  vec3 base = mix(colour, moving, smoothstep(0.12, 0.85, s.y * varies));
  float key = max(dot(normal, normalize(vec3(-0.45, 0.6, 0.75))), 0.0);
  float fill = max(dot(normal, normalize(vec3(0.7, -0.2, 0.4))), 0.0);
  float sky = 0.5 + 0.5 * normal.y;
  float light = 0.36 + 0.20 * sky + 0.52 * key + 0.12 * fill;
  float shine = pow(max(dot(normal, normalize(vec3(-0.24, 0.32, 0.92))), 0.0), 48.0);
  float open = clamp(s.x, 0.0, 1.0);
  vec3 lit = base * light * mix(0.38, 1.06, open) + 0.20 * shine * open;
  lit *= mix(1.0, 0.72, pow(1.0 - normal.z, 3.0));
  vec3 air = dark > 0.5 ? vec3(0.10, 0.13, 0.17) : vec3(0.94, 0.95, 0.97);
  pixel = vec4(mix(lit, air, 0.32 * clamp(0.5 + 0.9 * behind, 0.0, 1.0)), 1.0);
}`;

const painter = makePainter();

function makePainter() {
  const canvas = document.createElement("canvas");
  const gl = canvas.getContext("webgl2", { antialias: true, alpha: true, premultipliedAlpha: true });
  if (!gl) return null;
  const program = gl.createProgram();
  for (const [kind, source] of [[gl.VERTEX_SHADER, VERTEX_SHADER], [gl.FRAGMENT_SHADER, PIXEL_SHADER]]) {
    const shader = gl.createShader(kind);
    gl.shaderSource(shader, source);
    gl.compileShader(shader);
    if (!gl.getShaderParameter(shader, gl.COMPILE_STATUS)) throw new Error(gl.getShaderInfoLog(shader));
    gl.attachShader(program, shader);
  }
  gl.linkProgram(program);
  gl.useProgram(program);
  gl.enable(gl.DEPTH_TEST);
  const uniform = (name) => gl.getUniformLocation(program, name);
  const at = (name) => gl.getAttribLocation(program, name);
  return {
    canvas, gl,
    uniforms: Object.fromEntries(["turn", "scale", "depth", "colour", "moving", "varies", "dark"].map((name) => [name, uniform(name)])),
    attributes: [[at("position"), 3, 0], [at("normal"), 3, 12], [at("shade"), 2, 24]],
  };
}

const rgb = (hex) => [1, 3, 5].map((at) => parseInt(hex.slice(at, at + 2), 16) / 255);

/** The way a scene is looked at; scenes that share one turn together. */
class Camera {
  constructor(turn = TILTED) {
    this.home = this.turn = turn;
    this.zoom = 1;
    this.listeners = new Set();
  }

  set(turn, zoom = this.zoom) {
    this.turn = turn;
    this.zoom = Math.min(Math.max(zoom, 0.3), 12);
    for (const listener of this.listeners) listener();
  }

  /** Turn by angles about the vertical and the horizontal of the window. */
  rotate(across, down) { this.set(product(product(aboutX(down), aboutY(across)), this.turn)); }

  reset() { this.set(this.home, 1); }
}

const product = (a, b) => [0, 1, 2].flatMap((row) => [0, 1, 2].map((column) =>
  a[3 * row] * b[column] + a[3 * row + 1] * b[3 + column] + a[3 * row + 2] * b[6 + column]));
const transposed = (m) => [m[0], m[3], m[6], m[1], m[4], m[7], m[2], m[5], m[8]];
const aboutX = (t) => [1, 0, 0, 0, Math.cos(t), -Math.sin(t), 0, Math.sin(t), Math.cos(t)];
const aboutY = (t) => [Math.cos(t), 0, Math.sin(t), 0, 1, 0, -Math.sin(t), 0, Math.cos(t)];
const STRAIGHT = [1, 0, 0, 0, 1, 0, 0, 0, 1];
// z up, seen from a little above and from one side
const TILTED = product(product(aboutX(0.45), aboutY(0.6)), [1, 0, 0, 0, 0, 1, 0, -1, 0]);
const VIEWS = [["tilted", TILTED], ["front", product(STRAIGHT, [1, 0, 0, 0, 0, 1, 0, -1, 0])], ["side", product(aboutY(Math.PI / 2), [1, 0, 0, 0, 0, 1, 0, -1, 0])], ["top", STRAIGHT]];

/** A surface in a canvas, turned by the pointer or the arrow keys. */
class Scene {
  constructor(canvas, camera = new Camera(), { still = false } = {}) {
    this.canvas = canvas;
    this.level = null;
    this.field = this.second = null;
    this.colour = STATE_COLOURS[0];
    this.varies = 0;
    this.stale = true;
    this.still = still;
    this.draw = onceAFrame(() => this.paint());
    this.follow(camera);
    if (!still) this.listen();
    this.watcher = new ResizeObserver(this.draw);
    this.watcher.observe(canvas);
    theme.listeners.add(this.draw);
  }

  /** Let go of the graphics card's memory, and of everybody who would ask for a new picture. */
  close() {
    this.free();
    this.watcher.disconnect();
    this.camera.listeners.delete(this.draw);
    theme.listeners.delete(this.draw);
    this.field = null;
  }

  free() {
    for (const buffer of this.buffers ?? []) painter.gl.deleteBuffer(buffer);
    this.buffers = null;
    this.stale = true;
  }

  follow(camera) {
    this.camera?.listeners.delete(this.draw);
    this.camera = camera;
    camera.listeners.add(this.draw);
    this.draw();
  }

  /** Show a field; `second` colours its surface where it is large, `most` being the largest value. */
  show(field, { colour = this.colour, second = null, most = 1 } = {}) {
    Object.assign(this, { field, colour, second, varies: second ? 1 / most : 0, stale: true });
    this.draw();
  }

  /** Set the level, as a part of the field's peak. */
  setLevel(part) {
    this.level = part;
    this.stale = true;
    this.draw();
  }

  get threshold() { return (this.level ?? this.field.level) * this.field.peak; }

  paint() {
    const { canvas } = this;
    if (this.field && !canvas.isConnected) this.close();
    if (!this.field || !canvas.clientWidth) return;
    if (!painter) {
      canvas.title = "3D needs WebGL 2, which this browser does not offer; see the pictures in the run folder";
      return;
    }
    const ratio = Math.min(devicePixelRatio || 1, 2);
    const [width, height] = [Math.round(canvas.clientWidth * ratio), Math.round(canvas.clientHeight * ratio)];
    if (canvas.width !== width || canvas.height !== height) Object.assign(canvas, { width, height });
    if (this.stale) this.extract();
    drawMesh(this, width, height);
    canvas.getContext("2d").clearRect(0, 0, width, height);
    canvas.getContext("2d").drawImage(painter.canvas, 0, painter.canvas.height - height, width, height, 0, 0, width, height);
    canvas.dataset.turn = this.camera.turn.map((x) => x.toFixed(3)).join(" ");
    canvas.dataset.zoom = this.camera.zoom.toFixed(3);
    if (this.still) this.free(); // hundreds of them would fill the memory; they are seldom drawn again
  }

  /** Find the surface anew and hand it to the graphics card. */
  extract() {
    const { gl } = painter;
    const mesh = surfaceOf(this.field, this.threshold, this.second);
    this.buffers ??= [gl.createBuffer(), gl.createBuffer()];
    gl.bindBuffer(gl.ARRAY_BUFFER, this.buffers[0]);
    gl.bufferData(gl.ARRAY_BUFFER, mesh.vertices, gl.DYNAMIC_DRAW);
    gl.bindBuffer(gl.ELEMENT_ARRAY_BUFFER, this.buffers[1]);
    gl.bufferData(gl.ELEMENT_ARRAY_BUFFER, mesh.triangles, gl.DYNAMIC_DRAW);
    this.count = mesh.triangles.length;
    this.stale = false;
    this.canvas.dataset.triangles = this.count / 3;
    this.canvas.dataset.level = (this.level ?? this.field.level).toFixed(3);
  }

  listen() {
    const { canvas } = this;
    canvas.tabIndex = 0;
    const speed = 0.01;
    canvas.addEventListener("pointerdown", (event) => { canvas.setPointerCapture(event.pointerId); });
    canvas.addEventListener("pointermove", (event) => {
      if (event.buttons) this.camera.rotate(speed * event.movementX, speed * event.movementY);
    });
    canvas.addEventListener("dblclick", () => this.camera.reset());
    // a plain wheel scrolls the page; pinching a touch pad arrives as a wheel with the control key
    canvas.addEventListener("wheel", (event) => {
      if (!event.ctrlKey) return;
      event.preventDefault();
      this.camera.set(this.camera.turn, this.camera.zoom * Math.exp(-0.01 * event.deltaY));
    }, { passive: false });
    const keys = { ArrowLeft: [-0.12, 0], ArrowRight: [0.12, 0], ArrowUp: [0, -0.12], ArrowDown: [0, 0.12] };
    canvas.addEventListener("keydown", (event) => {
      if (keys[event.key]) this.camera.rotate(...keys[event.key]);
      else if (event.key === "+" || event.key === "=") this.camera.set(this.camera.turn, this.camera.zoom * 1.15);
      else if (event.key === "-") this.camera.set(this.camera.turn, this.camera.zoom / 1.15);
      else return;
      event.preventDefault();
    });
  }
}

function drawMesh(scene, width, height) {
  const { gl, canvas, uniforms, attributes } = painter;
  if (canvas.width < width || canvas.height < height) {
    canvas.width = Math.max(canvas.width, width);
    canvas.height = Math.max(canvas.height, height);
  }
  gl.viewport(0, 0, width, height);
  gl.clearColor(0, 0, 0, 0);
  gl.clear(gl.COLOR_BUFFER_BIT | gl.DEPTH_BUFFER_BIT);
  gl.bindBuffer(gl.ARRAY_BUFFER, scene.buffers[0]);
  gl.bindBuffer(gl.ELEMENT_ARRAY_BUFFER, scene.buffers[1]);
  for (const [at, size, offset] of attributes) {
    gl.enableVertexAttribArray(at);
    gl.vertexAttribPointer(at, size, gl.FLOAT, false, 32, offset);
  }
  const half = scene.field.side / 2;
  const scale = (scene.camera.zoom * 0.98) / half;
  const narrow = Math.min(width, height);
  gl.uniformMatrix3fv(uniforms.turn, false, transposed(scene.camera.turn)); // WebGL has columns first
  gl.uniform2f(uniforms.scale, (scale * narrow) / width, (scale * narrow) / height);
  gl.uniform1f(uniforms.depth, half * 1.8);
  gl.uniform3fv(uniforms.colour, rgb(scene.colour));
  gl.uniform3fv(uniforms.moving, rgb("#e8553f"));
  gl.uniform1f(uniforms.varies, scene.varies);
  gl.uniform1f(uniforms.dark, theme.dark ? 1 : 0);
  gl.drawElements(gl.TRIANGLES, scene.count, gl.UNSIGNED_INT, 0);
}
