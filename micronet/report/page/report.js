
"use strict";
(async () => {
  const AXES = "zyx";
  const LARGEST_HEIGHT = 460, SMALLEST_SIDE = 130, CAPTION = 165, GAP = 24, MARGIN = 20;  // CSS pixels
  const PAPER = "680px";  // fits A4 and letter
  const FRAME_MS = 700;
  const $ = (id) => document.getElementById(id);
  const { volumes, colours } = JSON.parse($("data").textContent);

  // ---- what was stored ------------------------------------------------------------------------------------------

  const bytesOf = (text) => Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));

  async function inflated(text) {
    const stream = new Blob([bytesOf(text)]).stream().pipeThrough(new DecompressionStream("deflate"));
    return new Uint8Array(await new Response(stream).arrayBuffer());
  }

  async function pixelsOf(source) {
    const image = new Image();
    image.src = source;
    await image.decode();
    const canvas = document.createElement("canvas");
    [canvas.width, canvas.height] = [image.naturalWidth, image.naturalHeight];
    const context = canvas.getContext("2d", { willReadFrequently: true });
    context.drawImage(image, 0, 0);
    const { data, width, height } = context.getImageData(0, 0, canvas.width, canvas.height);
    const grey = new Uint8Array(width * height);
    for (let i = 0; i < grey.length; i++) grey[i] = data[4 * i];
    return { grey, width, height };
  }

  // The planes lie side by side in one picture: put them on top of each other.
  async function imageOf({ image, size: [nz, ny, nx] }) {
    if (!image) return null;
    const { grey, width } = await pixelsOf(image.source);
    const volume = new Uint8Array(nz * ny * nx);
    for (let z = 0, to = 0; z < nz; z++) {
      const top = Math.floor(z / image.columns) * image.height, left = (z % image.columns) * image.width;
      for (let y = 0; y < ny; y++, to += nx) {
        const from = (top + y) * width + left;
        volume.set(grey.subarray(from, from + nx), to);
      }
    }
    return volume;
  }

  // Each mask is told as its difference from the one before; the annotation comes first, then further segments.
  async function masksOf(stored) {
    const all = await inflated(stored.masks);
    const count = stored.frames.length + stored.further.length + (stored.annotated ? 1 : 0);
    const length = all.length / count;
    const masks = [];
    for (let n = 0; n < count; n++) {
      const mask = all.subarray(n * length, (n + 1) * length);
      if (n) for (let i = 0; i < length; i++) mask[i] ^= masks[n - 1][i];
      masks.push(mask);
    }
    const annotation = stored.annotated ? masks.shift() : null;
    return { annotation, further: masks.splice(0, stored.further.length), frames: masks };
  }

  async function load(stored) {
    if (!stored.loaded) {
      const [image, masks, projections] = await Promise.all(
        [imageOf(stored), masksOf(stored), Promise.all(stored.projections.map(pixelsOf))]);
      const [nz, ny, nx] = stored.size, [pz, py, px] = stored.projected;
      const starts = [nz * ny * nx];  // where the projections begin among the bits of a mask
      for (const pixels of [py * px, pz * px]) starts.push(starts[starts.length - 1] + pixels);
      Object.assign(stored, { image, projections, annotation: masks.annotation, masks: masks.frames, starts, loaded: true });
      stored.further.forEach((segment, number) => { segment.mask = masks.further[number]; });
    }
    return stored;
  }

  // ---- planes -----------------------------------------------------------------------------------------------------

  let shown;  // the volume on the page
  const place = [0, 0, 0];  // of the three slices, in voxels shown

  const lengths = () => shown.shape.map((n, axis) => n * (shown.spacing ? shown.spacing[axis] : 1));

  // Depth (y) always runs down, and nothing tall stands beside it.
  function viewOf(axis) {
    const [z, , x] = lengths();
    if (axis === 0) return { axis, down: 1, right: 2 };
    if (axis === 2) return { axis, down: 1, right: 0 };
    return z > 1.5 * x ? { axis, down: 2, right: 0 } : { axis, down: 0, right: 2 };
  }

  // How to find the pixels of a plane: width, height and, for row and column, the place among the voxels stored.
  function planeOf({ axis, down, right }, projection) {
    const size = projection ? shown.projected : shown.size;
    let steps = [size[1] * size[2], size[2], 1], offset = 0;
    if (projection) {
      steps = [[0, size[2], 1], [size[2], 0, 1], [size[1], 1, 0]][axis];
      offset = shown.starts[axis];
    } else {
      offset = place[axis] * steps[axis];
    }
    return { width: size[right], height: size[down], offset, down: steps[down], right: steps[right], size };
  }

  function maskOf(bits, plane) {
    const { width, height, offset, down, right } = plane;
    const inside = new Uint8Array(width * height);
    for (let r = 0, to = 0; r < height; r++) {
      for (let c = 0; c < width; c++, to++) {
        const bit = offset + r * down + c * right;
        inside[to] = (bits[bit >> 3] >> (7 - (bit & 7))) & 1;
      }
    }
    return inside;
  }

  function greyOf(view, plane, projection) {
    const { width, height, offset, down, right } = plane;
    const grey = new Uint8Array(width * height).fill(90);
    if (!shown.image) return grey;
    const [source, start] = projection ? [shown.projections[view.axis].grey, 0] : [shown.image, offset];
    for (let r = 0, to = 0; r < height; r++)
      for (let c = 0; c < width; c++, to++) grey[to] = source[start + r * down + c * right];
    return grey;
  }

  // Which voxel of the volume lies at the centre of one of those shown along an axis, or of a projection's pixel.
  const voxelOf = (axis, at, count) => Math.floor((2 * at + 1) * shown.shape[axis] / (2 * count));

  // Which rows and columns of a picture lie in planes of which something is known, given along z, y and x.
  function knownIn(known, view, { size }) {
    const along = (axis) => Uint8Array.from(
      { length: size[axis] }, (_, at) => known[axis] ? known[axis][voxelOf(axis, at, size[axis])] : 1);
    return { rows: along(view.down), columns: along(view.right) };
  }

  // Marching squares at one half. The rim is repeated, so that a contour that leaves the volume is open there.
  // Nor has a mask an outline where looking for it ended: what is not between known rows and columns is left out.
  function contourOf(inside, { width, height }, scaleX, scaleY, { rows, columns }) {
    const path = new Path2D();
    const row = (r) => Math.min(Math.max(r, 0), height - 1), column = (c) => Math.min(Math.max(c, 0), width - 1);
    const at = (r, c) => inside[row(r) * width + column(c)];
    const line = (x1, y1, x2, y2) => { path.moveTo(x1 * scaleX, y1 * scaleY); path.lineTo(x2 * scaleX, y2 * scaleY); };
    for (let r = -1; r < height; r++) {
      if (!(rows[row(r)] && rows[row(r + 1)])) continue;
      for (let c = -1; c < width; c++) {
        if (!(columns[column(c)] && columns[column(c + 1)])) continue;
        const kind = at(r, c) * 8 + at(r, c + 1) * 4 + at(r + 1, c + 1) * 2 + at(r + 1, c);
        if (kind === 0 || kind === 15) continue;
        const top = [c + 1, r + .5], right = [c + 1.5, r + 1], bottom = [c + 1, r + 1.5], left = [c + .5, r + 1];
        if (kind === 1 || kind === 14 || kind === 10) line(...left, ...bottom);
        if (kind === 2 || kind === 13 || kind === 5) line(...bottom, ...right);
        if (kind === 4 || kind === 11 || kind === 10) line(...top, ...right);
        if (kind === 8 || kind === 7 || kind === 5) line(...left, ...top);
        if (kind === 3 || kind === 12) line(...left, ...right);
        if (kind === 6 || kind === 9) line(...top, ...bottom);
      }
    }
    return path;
  }

  // Their dark rims below all of them, so that where two contours agree the narrow one lies on the broad one.
  function stroke(context, contours) {
    context.lineJoin = context.lineCap = "round";
    for (const [rim, extra] of [["rgba(0, 0, 0, .6)", 1.6], [null, 0]]) {
      for (const [path, colour, width] of contours) {
        context.strokeStyle = rim || colour;
        context.lineWidth = width + extra;
        context.stroke(path);
      }
    }
  }

  const rgbOf = (colour) => [1, 3, 5].map((i) => parseInt(colour.slice(i, i + 2), 16));

  // ---- drawing ----------------------------------------------------------------------------------------------------

  const colourOf = (role) => shown.colours[role] || colours[role];
  const frame = () => shown.masks[Number($("frame").value)];

  function draw({ canvas, view, projection }) {
    const plane = planeOf(view, projection), { width, height } = plane;
    const mask = maskOf(frame(), plane);
    const annotation = shown.annotation ? maskOf(shown.annotation, plane) : null;
    const grey = greyOf(view, plane, projection);
    const pixels = new ImageData(width, height);
    const fill = annotation && $("show-agreement").checked;
    const tints = [null, ...["mask", "annotation", "agreed"].map((role) => rgbOf(colourOf(role)))];
    for (let i = 0; i < grey.length; i++) {
      const tint = fill ? tints[mask[i] + 2 * annotation[i]] : null;
      for (let k = 0; k < 3; k++) pixels.data[4 * i + k] = tint ? .45 * grey[i] + .55 * tint[k] : grey[i];
      pixels.data[4 * i + 3] = 255;
    }
    const small = new OffscreenCanvas(width, height);
    small.getContext("2d").putImageData(pixels, 0, 0);

    const ratio = window.devicePixelRatio || 1;
    const cssWidth = canvas.clientWidth, cssHeight = canvas.clientHeight;
    [canvas.width, canvas.height] = [Math.round(cssWidth * ratio), Math.round(cssHeight * ratio)];
    const context = canvas.getContext("2d");
    context.imageSmoothingQuality = "high";
    context.drawImage(small, 0, 0, canvas.width, canvas.height);
    context.scale(ratio, ratio);
    // Y runs down where it is seen from the side.
    const crop = shown.crop === null || view.down !== 1 ? null : shown.crop / shown.shape[1] * height;
    const contour = (inside, known) => contourOf(inside, plane, cssWidth / width, cssHeight / height, known);
    const contours = [];
    if (annotation && $("show-annotation").checked)
      contours.push([contour(annotation, knownIn(shown.annotatedPlanes, view, plane)), colourOf("annotation"), 4]);
    const looked = (known) => {
      const { rows, columns } = knownIn(known, view, plane);
      return { rows: crop === null ? rows : rows.fill(0, Math.floor(crop)), columns };
    };
    // The first segment lies uppermost, as in previews.
    for (const segment of [...shown.further].reverse())
      if (segment.box.checked)
        contours.push([contour(maskOf(segment.mask, plane), looked(segment.known)), segment.colour, 1.6]);
    if ($("show-mask").checked) contours.push([contour(mask, looked([])), colourOf("mask"), 1.6]);
    stroke(context, contours);
    if (crop !== null) {
      const path = new Path2D(`M 0 ${crop / height * cssHeight} H ${cssWidth}`);
      context.lineCap = "butt";
      for (const [dash, width, colour] of [[[], 3, "rgba(0, 0, 0, .6)"], [[6, 5], 1.5, "#fff"]]) {
        context.setLineDash(dash);
        context.lineWidth = width;
        context.strokeStyle = colour;
        context.stroke(path);
      }
    }
    if (!projection && shown.shape[0] > 1 && $("show-cross").checked) {
      context.setLineDash([2, 4]);
      context.lineWidth = 1;
      context.strokeStyle = "rgba(255, 255, 255, .8)";
      const x = (place[view.right] + .5) / width * cssWidth, y = (place[view.down] + .5) / height * cssHeight;
      context.stroke(new Path2D(`M ${x} 0 V ${cssHeight} M 0 ${y} H ${cssWidth}`));
    }
  }

  const rounded = (number) => Number(number.toPrecision(4)).toString();

  function whereIs({ axis }, projection) {
    if (projection) return [`maximum along ${AXES[axis]}`, ""];
    const voxel = voxelOf(axis, place[axis], shown.size[axis]);
    const depth = shown.spacing ? `${rounded(voxel * shown.spacing[axis])} µm` : "";
    return [`${AXES[axis]} ${voxel} of ${shown.shape[axis]}`, depth];
  }

  // The largest of 1, 2, 5 times a power of ten that is not above a length.
  function roundLength(largest) {
    const power = 10 ** Math.floor(Math.log10(largest));
    return [5, 2, 1].map((step) => step * power).find((length) => length <= largest * (1 + 1e-9));
  }

  // ---- the page ---------------------------------------------------------------------------------------------------

  const element = (name, className, parent, text = "") => {
    const made = document.createElement(name);
    made.className = className;
    made.textContent = text;
    parent.append(made);
    return made;
  };

  function build(axis, projection) {
    const root = element("figure", "view", $(projection ? "projections" : "planes"));
    const caption = element("figcaption", "caption", root);
    const where = element("span", "", caption), depth = element("span", "", caption);
    const middle = element("div", "frame", root);
    const down = element("span", "down", middle);
    const canvas = element("canvas", "", middle);
    canvas.setAttribute("role", "img");
    const foot = element("div", "foot", root);
    const right = element("span", "", foot);
    const bar = element("span", "bar", foot);
    const barName = element("span", "", bar), barLine = element("i", "", bar);
    const picture = { axis, projection, root, canvas, where, depth, down, right, barName, barLine };
    if (!projection) {
      const slider = element("input", "", root);
      Object.assign(slider, { type: "range", min: 0, step: 1, id: `slice-${AXES[axis]}` });
      slider.setAttribute("aria-label", `slice along ${AXES[axis]}`);
      slider.addEventListener("input", () => { place[axis] = Number(slider.value); show(false); });
      picture.slider = slider;
      const go = (event) => {
        if (event.type === "pointermove" && !(event.buttons & 1)) return;
        const { view } = picture;
        for (const [other, part] of [[view.right, event.offsetX / canvas.clientWidth],
                                     [view.down, event.offsetY / canvas.clientHeight]])
          place[other] = Math.min(Math.max(Math.floor(part * shown.size[other]), 0), shown.size[other] - 1);
        show(false);
      };
      canvas.addEventListener("pointerdown", go);
      canvas.addEventListener("pointermove", go);
      canvas.style.cursor = "crosshair";
    }
    return picture;
  }

  const pictures = [0, 1, 2].map((axis) => build(axis, false)).concat([0, 1, 2].map((axis) => build(axis, true)));

  // The largest scale, of those up to `most`, at which the pictures fit.
  function largestScale(most, fits) {
    if (fits(most)) return most;
    let low = 0;
    for (let n = 0, high = most; n < 40; n++) {
      const middle = (low + high) / 2;
      if (fits(middle)) low = middle; else high = middle;
    }
    return low;
  }

  // One scale for all three, save for those that would come out smaller than a stamp.
  let laidOutIn = 0;  // what the viewer was wide then: a scroll bar may come with what is drawn
  function layOut() {
    laidOutIn = $("viewer").clientWidth;
    const room = $("planes").clientWidth - 1;  // it may have been rounded up
    const sizes = [0, 1, 2].map((axis) => {
      const view = viewOf(axis), all = lengths();
      return [all[view.right], all[view.down]];
    });
    const narrow = room < 620;
    for (const row of ["planes", "projections"]) $(row).style.flexWrap = narrow ? "wrap" : "nowrap";
    const ownAt = (scale, [width, height]) =>
      Math.max(scale, Math.min(SMALLEST_SIDE / Math.max(width, height), (room - MARGIN) / width));
    const cellAt = (scale, size) => Math.max(size[0] * ownAt(scale, size), CAPTION) + MARGIN;
    const seen = shown.shape[0] > 1 ? sizes : sizes.slice(0, 1);
    const fits = (scale) => {
      const cells = seen.map((size) => cellAt(scale, size));
      return narrow ? Math.max(...cells) <= room : cells.reduce((all, cell) => all + GAP + cell) <= room;
    };
    const scale = largestScale(LARGEST_HEIGHT / Math.max(...seen.map(([, height]) => height)), fits);
    const owns = sizes.map((size) => ownAt(scale, size));
    for (const picture of pictures) {
      const view = viewOf(picture.axis), [width, height] = sizes[picture.axis], own = owns[picture.axis];
      // One scale, one bar.
      const narrowest = Math.min(...seen.filter((_, axis) => owns[axis] === own).map(([other]) => other), width);
      const canvas = picture.canvas;
      picture.view = view;
      canvas.style.width = `${Math.max(2, Math.floor(width * own))}px`;
      canvas.style.height = `${Math.max(2, Math.round(height * own))}px`;
      picture.root.style.width = `${Math.max(Math.floor(width * own), CAPTION) + MARGIN}px`;
      picture.down.textContent = `${AXES[view.down]} ↓`;
      picture.right.textContent = `${AXES[view.right]} →`;
      const bar = roundLength(Math.max(70, .3 * narrowest * own) / own);
      picture.barName.textContent = `${bar} ${shown.spacing ? "µm" : "voxels"}`;
      picture.barLine.style.width = `${bar * own}px`;
    }
  }

  // Projections stay as they are while only the slices move.
  function show(all = true) {
    for (const picture of all ? pictures : pictures.slice(0, 3)) {
      if (picture.root.hidden) continue;
      const [where, depth] = whereIs(picture.view, picture.projection);
      picture.where.textContent = where;
      picture.depth.textContent = depth;
      const spoken = `${picture.projection ? "projection, " : "slice, "}${where} ${depth}`.trim();
      picture.canvas.setAttribute("aria-label", spoken);
      if (picture.slider) {
        picture.slider.value = place[picture.axis];
        picture.slider.setAttribute("aria-valuetext", spoken);
      }
      draw(picture);
    }
    const label = shown.frames[Number($("frame").value)];
    $("frame-name").textContent = label;
    $("frame").setAttribute("aria-valuetext", label);
    $("agreement").hidden = !(shown.annotation && $("show-agreement").checked);
  }

  function labelOf(segment) {
    segment.label = document.createElement("label");
    segment.box = element("input", "", segment.label);
    Object.assign(segment.box, { type: "checkbox", checked: true });
    segment.box.addEventListener("change", () => show());
    element("span", "swatch", segment.label).style.background = segment.colour;
    element("span", "", segment.label, segment.name);
    return segment.label;
  }

  async function choose(number) {
    stop();
    shown = await load(volumes[number]);
    shown.start.forEach((at, axis) => { place[axis] = at; });
    for (const picture of pictures) if (picture.slider) picture.slider.max = shown.size[picture.axis] - 1;
    // An image of one plane is a line from the side.
    const flat = shown.shape[0] === 1;
    for (const { root, axis, projection, slider } of pictures) {
      root.hidden = flat && (projection || axis > 0);
      if (slider) slider.hidden = flat;
    }
    for (const one of [$("of-volumes"), $("show-cross").closest("label")]) one.hidden = flat;
    $("frame").max = shown.masks.length - 1;
    $("frame").value = shown.masks.length - 1;
    document.querySelector(".movie").hidden = shown.masks.length < 2;
    for (const swatch of document.querySelectorAll("[data-colour]")) swatch.style.background = colourOf(swatch.dataset.colour);
    $("further").replaceChildren(...shown.further.map((segment) => segment.label || labelOf(segment)));
    $("mask-name").textContent = shown.maskName;
    $("annotation-name").textContent = shown.annotationName;
    for (const id of ["show-annotation", "show-agreement"]) $(id).closest("label").hidden = !shown.annotation;
    $("crop").hidden = shown.crop === null;
    if (shown.crop !== null) $("crop-name").textContent = `y-crop: nothing is looked for below y ${shown.crop}`;
    const coarse = shown.size.some((n, axis) => n < shown.shape[axis]);
    $("coarseness").hidden = !coarse;
    $("coarseness").textContent = `Shown here are ${shown.size.join(" × ")} of ${shown.shape.join(" × ")} voxels `
      + "(z × y × x), so that this page stays small: the image lightly smoothed, masks as they are at the centre of "
      + "each voxel shown. Projections are over all voxels.";
    $("viewer").hidden = false;
    layOut();
    show();
  }

  // ---- the movie --------------------------------------------------------------------------------------------------

  let timer = 0;

  function stop() {
    clearInterval(timer);
    timer = 0;
    $("play").textContent = "Play";
    $("play").setAttribute("aria-pressed", "false");
  }

  function step() {
    const slider = $("frame");
    if (slider.value === slider.max) return stop();
    slider.value = Number(slider.value) + 1;
    show();
    if (slider.value === slider.max) stop();
  }

  $("play").addEventListener("click", () => {
    if (timer) return stop();
    if ($("frame").value === $("frame").max) { $("frame").value = 0; show(); }
    timer = setInterval(step, FRAME_MS);
    $("play").textContent = "Stop";
    $("play").setAttribute("aria-pressed", "true");
  });
  $("frame").addEventListener("input", () => { stop(); show(); });

  // ---- start ------------------------------------------------------------------------------------------------------

  for (const id of ["mask", "annotation", "agreement", "cross"]) $(`show-${id}`).addEventListener("change", () => show());
  volumes.forEach((volume, number) => $("volume").append(new Option(volume.name, number)));
  $("volume").closest("label").hidden = volumes.length < 2;
  $("volume").addEventListener("change", () => choose(Number($("volume").value)));
  try {
    await choose(0);
    new ResizeObserver(() => {
      if ($("viewer").clientWidth === laidOutIn) return;  // its height changes with what is drawn
      layOut();
      show();
    }).observe($("viewer"));
    // Paper is narrower than the window: all three pictures beside each other there, too.
    for (const [event, room] of [["beforeprint", PAPER], ["afterprint", ""]])
      addEventListener(event, () => {
        $("viewer").style.width = room;
        layOut();
        show();
      });
  } catch (error) {
    $("trouble").textContent = `This browser could not show the slices (${error}). A current one can.`;
    $("trouble").hidden = false;
  }
})();
