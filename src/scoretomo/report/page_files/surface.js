// The surface on which a volume has some level: surface nets (Gibson 1998), a vertex in every cell that the surface
// crosses, at the mean of the crossings of its edges; normals and shade from the densities around.

const CORNERS = [0, 1, 2, 3, 4, 5, 6, 7].map((c) => [c & 1, (c >> 1) & 1, (c >> 2) & 1]);
const EDGES = CORNERS.flatMap((_, c) => [1, 2, 4].filter((step) => !(c & step)).map((step) => [c, c | step]));

/**
 * Surface of a field {side, values (z, y, x)} at a level.
 * Gives {vertices: 8 numbers each (x y z from the centre in voxels, normal x y z, open sky, value), triangles}.
 * `second` is another field of the same side, whose values go to the vertices: what to colour by.
 */
function surfaceOf(field, level, second = null) {
  const { side: n, values } = field;
  const steps = [1, n, n * n];
  const offsets = CORNERS.map(([x, y, z]) => x + y * n + z * n * n);
  const numbers = new Int32Array(n * n * n).fill(-1);
  const vertices = [];
  const triangles = [];
  for (let z = 0; z < n - 1; z++) {
    for (let y = 0; y < n - 1; y++) {
      let at = (z * n + y) * n;
      for (let x = 0; x < n - 1; x++, at++) {
        let inside = 0;
        for (let c = 0; c < 8; c++) if (values[at + offsets[c]] >= level) inside |= 1 << c;
        if (inside === 0 || inside === 255) continue;
        numbers[at] = vertices.length / 3;
        let crossings = 0, sx = 0, sy = 0, sz = 0;
        for (const [a, b] of EDGES) {
          if (((inside >> a) & 1) === ((inside >> b) & 1)) continue;
          const from = values[at + offsets[a]];
          const part = (level - from) / (values[at + offsets[b]] - from);
          sx += CORNERS[a][0] + part * (CORNERS[b][0] - CORNERS[a][0]);
          sy += CORNERS[a][1] + part * (CORNERS[b][1] - CORNERS[a][1]);
          sz += CORNERS[a][2] + part * (CORNERS[b][2] - CORNERS[a][2]);
          crossings++;
        }
        vertices.push(x + sx / crossings, y + sy / crossings, z + sz / crossings);
        // a quadrangle across each of the three edges that leave the first corner, where the surface crosses it
        for (let axis = 0; axis < 3; axis++) {
          const first = inside & 1, second_ = (inside >> (1 << axis)) & 1;
          if (first === second_) continue;
          const u = steps[(axis + 1) % 3], v = steps[(axis + 2) % 3];
          const [a, b, c, d] = [numbers[at], numbers[at - u], numbers[at - u - v], numbers[at - v]];
          if (at - u - v < 0 || b < 0 || c < 0 || d < 0) continue;
          if (first) triangles.push(a, b, c, a, c, d);
          else triangles.push(a, c, b, a, d, c);
        }
      }
    }
  }
  return { vertices: shaded(field, level, vertices, second), triangles: new Uint32Array(triangles) };
}

/** Linear interpolation between the voxels; outside the box the nearest one. */
function densityAt({ side: n, values }, x, y, z) {
  const i = Math.min(Math.max(Math.floor(x), 0), n - 2);
  const j = Math.min(Math.max(Math.floor(y), 0), n - 2);
  const k = Math.min(Math.max(Math.floor(z), 0), n - 2);
  const a = Math.min(Math.max(x - i, 0), 1), b = Math.min(Math.max(y - j, 0), 1), c = Math.min(Math.max(z - k, 0), 1);
  const at = (k * n + j) * n + i, up = n * n;
  const near = (values[at] * (1 - a) + values[at + 1] * a) * (1 - b) + (values[at + n] * (1 - a) + values[at + n + 1] * a) * b;
  const far = (values[at + up] * (1 - a) + values[at + up + 1] * a) * (1 - b)
    + (values[at + up + n] * (1 - a) + values[at + up + n + 1] * a) * b;
  return near * (1 - c) + far * c;
}

function shaded(field, level, points, second) {
  const count = points.length / 3;
  const out = new Float32Array(8 * count);
  const half = Math.floor(field.side / 2);
  for (let i = 0; i < count; i++) {
    const x = points[3 * i], y = points[3 * i + 1], z = points[3 * i + 2];
    let gx = densityAt(field, x - 1, y, z) - densityAt(field, x + 1, y, z);
    let gy = densityAt(field, x, y - 1, z) - densityAt(field, x, y + 1, z);
    let gz = densityAt(field, x, y, z - 1) - densityAt(field, x, y, z + 1);
    const length = Math.hypot(gx, gy, gz) || 1;
    gx /= length; gy /= length; gz /= length;
    // how much density stands before the surface: in clefts little light arrives
    let before = 0;
    for (const far of [2, 4, 7]) before += Math.min(Math.max(densityAt(field, x + far * gx, y + far * gy, z + far * gz) / level, 0), 1);
    out.set([x - half, y - half, z - half, gx, gy, gz, 1 - before / 3.6, second ? densityAt(second, x, y, z) : 0], 8 * i);
  }
  return out;
}

/** Volume that the surface encloses, in cubic voxels. */
function enclosed(field, level) {
  let count = 0;
  for (const value of field.values) if (value >= level) count++;
  return count;
}

/** first + amount * second, as a field. */
function sum(first, amount, second) {
  const values = new Float32Array(first.values.length);
  for (let i = 0; i < values.length; i++) values[i] = first.values[i] + amount * second.values[i];
  return { ...first, values };
}
