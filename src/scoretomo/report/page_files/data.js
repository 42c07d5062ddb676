// Volumes and pictures of the page: base64 of zlib of bytes, unpacked when they are first needed.

const unpacked = new Map();

/** The bytes of a block of the page, a Promise. */
function bytesOf(name) {
  if (!unpacked.has(name)) unpacked.set(name, unpack(byId(`data-${name}`).textContent));
  return unpacked.get(name);
}

async function unpack(text) {
  const packed = Uint8Array.from(atob(text.trim()), (letter) => letter.charCodeAt(0));
  const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("deflate"));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}

// Unpacked volumes that are kept: one of 48 voxels takes half a megabyte.
const FIELDS_KEPT = 100;
const fields = new Map();

/** A volume as densities: {side, voxel, values (z, y, x), peak, level}, a Promise. */
function fieldOf(name) {
  if (!fields.has(name)) {
    if (fields.size >= FIELDS_KEPT) fields.delete(fields.keys().next().value);
    fields.set(name, bytesOf(name).then((bytes) => {
      const { side, voxel, low, high, peak, level } = page.densities[name];
      const values = new Float32Array(bytes.length);
      const unit = (high - low) / 255;
      for (let i = 0; i < bytes.length; i++) values[i] = low + unit * bytes[i];
      return { side, voxel, values, peak, level };
    }));
  }
  return fields.get(name);
}

/** Draw a picture of a block of pictures, its first row below: y goes up, as in the volumes. */
async function drawPicture(canvas, block, number) {
  const bytes = await bytesOf(block);
  const side = page.pictures[block].side;
  canvas.width = canvas.height = side;
  const context = canvas.getContext("2d");
  const image = context.createImageData(side, side);
  const start = number * side * side;
  for (let row = 0; row < side; row++) {
    for (let column = 0; column < side; column++) {
      const value = bytes[start + (side - 1 - row) * side + column];
      image.data.set([value, value, value, 255], 4 * (row * side + column));
    }
  }
  context.putImageData(image, 0, 0);
  canvas.dataset.drawn = "yes";
}

const classAverage = (canvas, volume) => drawPicture(canvas, "volumes", 2 * volume.picture);
const projection = (canvas, volume) => drawPicture(canvas, "volumes", 2 * volume.picture + 1);
