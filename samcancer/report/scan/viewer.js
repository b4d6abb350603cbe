// The slice viewer: decodes companded slices, applies the window, draws outlines and diameters.
// Conventions: slice 0 is nearest the feet; positions are voxels (column, row), whose centres are
// whole numbers; the picture's left is the patient's right.
(function () {
  "use strict";

  const data = JSON.parse(document.getElementById("scan-data").textContent);
  const root = document.getElementById("viewer");
  const picture = root.querySelector(".picture");
  const canvas = picture.querySelector("canvas");
  const rail = root.querySelector(".rail");
  const track = rail.querySelector(".rail-track");
  const thumb = rail.querySelector(".rail-thumb");
  const context = canvas.getContext("2d", { alpha: false });
  const [columns, rows, slices] = data.size;
  const [columnMm, rowMm] = data.spacing_mm;
  const PAGE_STEP = 10;
  const WHEEL_STEP = 50; // pixels of a touchpad's scrolling that make one slice
  const CACHED_SLICES = 48;
  const PREFETCHED = 2;
  const ZOOM = 2.5;

  const state = {
    slice: data.first_slice,
    low: data.presets[data.first_preset].low,
    high: data.presets[data.first_preset].high,
    overlay: true,
    diameters: true,
    hidden: new Set(),
    view: { left: 0, top: 0, zoom: 1 },
    pointer: null,
  };
  const decoded = new Map(); // slice -> promise of {levels, labels, edges}
  let painted = null;

  // ---- decoding -------------------------------------------------------------------------------

  const scratch = document.createElement("canvas");
  const scratchContext = scratch.getContext("2d", { willReadFrequently: true });

  function pixelsOf(uri) {
    return new Promise(function (resolve, reject) {
      const image = new Image();
      image.onload = function () {
        scratch.width = image.naturalWidth;
        scratch.height = image.naturalHeight;
        scratchContext.drawImage(image, 0, 0);
        const rgba = scratchContext.getImageData(0, 0, scratch.width, scratch.height).data;
        const grey = new Uint8Array(rgba.length / 4);
        for (let i = 0; i < grey.length; i += 1) { grey[i] = rgba[4 * i]; }
        resolve({ grey: grey, width: scratch.width, height: scratch.height });
      };
      image.onerror = function () { reject(new Error("a slice could not be decoded")); };
      image.src = uri;
    });
  }

  function sliceOf(z) {
    if (!decoded.has(z)) {
      const mask = data.masks[z];
      decoded.set(z, Promise.all([
        pixelsOf("data:image/webp;base64," + data.pictures[z]),
        mask ? pixelsOf("data:image/png;base64," + mask) : null,
      ]).then(function (parts) {
        const labels = parts[1] && parts[1].grey;
        return { slice: z, levels: parts[0], labels: labels, edges: labels ? edgesOf(labels) : new Map() };
      }));
    }
    const found = decoded.get(z);
    decoded.delete(z); // and to the end of the map: the first entry is the one used longest ago
    decoded.set(z, found);
    while (decoded.size > CACHED_SLICES) { decoded.delete(decoded.keys().next().value); }
    return found;
  }

  // Borders between voxels, as label -> [x0, y0, x1, y1, ...] in voxel corners.
  function edgesOf(labels) {
    const edges = new Map();
    function add(label, x0, y0, x1, y1) {
      if (label === 0) { return; }
      if (!edges.has(label)) { edges.set(label, []); }
      edges.get(label).push(x0, y0, x1, y1);
    }
    for (let y = 0; y <= rows; y += 1) {
      for (let x = 0; x <= columns; x += 1) {
        const here = x < columns && y < rows ? labels[y * columns + x] : 0;
        const above = y > 0 && x < columns ? labels[(y - 1) * columns + x] : 0;
        const before = x > 0 && y < rows ? labels[y * columns + x - 1] : 0;
        if (here !== above) { add(here, x, y, x + 1, y); add(above, x, y, x + 1, y); }
        if (here !== before) { add(here, x, y, x, y + 1); add(before, x, y, x, y + 1); }
      }
    }
    return edges;
  }

  // ---- drawing --------------------------------------------------------------------------------

  const plane = document.createElement("canvas");
  const planeContext = plane.getContext("2d", { willReadFrequently: true });

  function greyOf(level) {
    return (data.level_hu[level] - state.low) / (state.high - state.low) * 255;
  }

  function fit() {
    const ratio = window.devicePixelRatio || 1;
    canvas.width = Math.max(Math.round(canvas.clientWidth * ratio), 1);
    canvas.height = Math.max(Math.round(canvas.clientHeight * ratio), 1);
  }

  // Canvas pixels of a voxel corner.
  function place(x, y) {
    const view = state.view;
    return [
      (x - view.left) / columns * view.zoom * canvas.width,
      (y - view.top) / rows * view.zoom * canvas.height,
    ];
  }

  function paint(shown) {
    const levels = shown.levels;
    const table = new Uint8ClampedArray(data.level_hu.length);
    for (let i = 0; i < table.length; i += 1) { table[i] = greyOf(i); }
    plane.width = levels.width;
    plane.height = levels.height;
    const image = planeContext.createImageData(levels.width, levels.height);
    const words = new Uint32Array(image.data.buffer);
    for (let i = 0; i < words.length; i += 1) {
      words[i] = 0xff000000 | table[levels.grey[i]] * 0x010101;
    }
    planeContext.putImageData(image, 0, 0);
    context.setTransform(1, 0, 0, 1, 0, 0);
    context.fillStyle = "#000";
    context.fillRect(0, 0, canvas.width, canvas.height);
    context.imageSmoothingEnabled = true;
    context.imageSmoothingQuality = "high";
    const start = place(0, 0);
    const stop = place(data.covered[0], data.covered[1]);
    context.drawImage(plane, start[0], start[1], stop[0] - start[0], stop[1] - start[1]);
    if (state.overlay) { paintOutlines(shown.edges); }
    if (state.diameters) { data.lesions.forEach(paintDiameters); }
    painted = shown;
    picture.dataset.slice = shown.slice;
    describe();
  }

  function paintOutlines(edges) {
    const unit = window.devicePixelRatio || 1;
    data.classes.forEach(function (kind) {
      const ends = edges.get(kind.label);
      if (!ends || state.hidden.has(kind.label)) { return; }
      context.beginPath();
      for (let i = 0; i < ends.length; i += 4) {
        context.moveTo(...place(ends[i], ends[i + 1]));
        context.lineTo(...place(ends[i + 2], ends[i + 3]));
      }
      context.lineCap = "square";
      context.strokeStyle = "rgb(0 0 0 / 60%)";
      context.lineWidth = (kind.kind === "lesion" ? 3.5 : 2.2) * unit;
      context.stroke();
      context.strokeStyle = kind.colour;
      context.lineWidth = (kind.kind === "lesion" ? 1.8 : 1) * unit;
      context.stroke();
    });
  }

  function paintDiameters(lesion) {
    if (lesion.key_slice !== state.slice || state.hidden.has(lesion.label)) { return; }
    const unit = window.devicePixelRatio || 1;
    context.beginPath();
    [lesion.long_axis, lesion.short_axis].forEach(function (line) {
      context.moveTo(...place(line[0][0] + 0.5, line[0][1] + 0.5));
      context.lineTo(...place(line[1][0] + 0.5, line[1][1] + 0.5));
    });
    context.lineCap = "round";
    context.strokeStyle = "rgb(0 0 0 / 70%)";
    context.lineWidth = 3 * unit;
    context.stroke();
    context.strokeStyle = "#fff";
    context.lineWidth = 1.4 * unit;
    context.setLineDash([5 * unit, 3 * unit]);
    context.stroke();
    context.setLineDash([]);
    const end = lesion.long_axis.reduce(function (a, b) { return a[0] > b[0] ? a : b; });
    const spot = place(end[0] + 1, end[1] + 0.5);
    context.font = "600 " + 13 * unit + "px system-ui, sans-serif";
    context.textBaseline = "middle";
    context.lineWidth = 3 * unit;
    context.strokeStyle = "#000";
    const words = lesion.long_axis_mm.toFixed(1) + " × " + lesion.short_axis_mm.toFixed(1) + " mm";
    const left = Math.min(spot[0] + 6 * unit, canvas.width - context.measureText(words).width - 6 * unit);
    context.strokeText(words, left, spot[1]);
    context.fillStyle = "#fff";
    context.fillText(words, left, spot[1]);
  }

  let asked = false;
  function refresh() {
    if (asked) { return; }
    asked = true;
    requestAnimationFrame(function () {
      asked = false;
      const wanted = state.slice;
      sliceOf(wanted).then(function (shown) {
        if (state.slice !== wanted) { return; }
        paint(shown);
        for (let step = 1; step <= PREFETCHED; step += 1) {
          [wanted + step, wanted - step].forEach(function (z) { if (z >= 0 && z < slices) { sliceOf(z); } });
        }
      });
    });
  }

  // ---- words around the picture ---------------------------------------------------------------

  function say(name, words) { root.querySelector("[data-show=" + name + "]").textContent = words; }

  function positionMm(x, y, z) {
    return [0, 1, 2].map(function (axis) {
      const step = data.axes_mm[axis];
      return data.origin_mm[axis] + step[0] * x + step[1] * y + step[2] * z;
    });
  }

  function describe() {
    const middle = positionMm((columns - 1) / 2, (rows - 1) / 2, state.slice);
    say("slice", "Slice " + (state.slice + 1) + " of " + slices + " from the feet\nz " + middle[2].toFixed(1) + " mm");
    say("window", "W " + Math.round(state.high - state.low) + "  L " + Math.round((state.high + state.low) / 2));
    say("pointer", pointerWords());
    const share = slices > 1 ? 1 - state.slice / (slices - 1) : 0.5;
    thumb.style.top = 100 * share + "%";
    rail.setAttribute("aria-valuemax", slices);
    rail.setAttribute("aria-valuenow", state.slice + 1);
    rail.setAttribute("aria-valuetext", "slice " + (state.slice + 1) + " of " + slices);
    document.querySelectorAll(".cut").forEach(function (line) {
      const y = (1 - (state.slice + 0.5) / slices) * Number(line.dataset.height);
      line.setAttribute("y1", y);
      line.setAttribute("y2", y);
    });
    root.querySelectorAll(".presets button").forEach(function (button, index) {
      const preset = data.presets[index];
      button.setAttribute("aria-pressed", String(preset.low === state.low && preset.high === state.high));
    });
    const values = { level: (state.high + state.low) / 2, width: state.high - state.low };
    root.querySelectorAll("[data-window]").forEach(function (input) {
      input.value = values[input.dataset.window];
      input.nextElementSibling.textContent = Math.round(values[input.dataset.window]) + " HU";
    });
    document.querySelectorAll("tr[data-lesion]").forEach(function (row) {
      const lesion = data.lesions[Number(row.dataset.lesion)];
      row.classList.toggle("here", lesion.first_slice <= state.slice && state.slice <= lesion.last_slice);
    });
  }

  function pointerWords() {
    if (!state.pointer || !painted) { return ""; }
    const x = Math.floor(state.pointer[0]);
    const y = Math.floor(state.pointer[1]);
    if (x < 0 || y < 0 || x >= columns || y >= rows) { return ""; }
    const levels = painted.levels;
    const column = Math.min(Math.floor(x / data.reduction), levels.width - 1);
    const row = Math.min(Math.floor(y / data.reduction), levels.height - 1);
    const hu = Math.round(data.level_hu[levels.grey[row * levels.width + column]]);
    const mm = positionMm(x, y, state.slice).map(function (v) { return v.toFixed(1); });
    const label = painted.labels ? painted.labels[y * columns + x] : 0;
    const kind = data.classes.find(function (one) { return one.label === label; });
    return "≈ " + hu + " HU" + (kind ? " · " + kind.title : "") + "\nx " + mm[0] + "  y " + mm[1] + "  z " + mm[2] + " mm";
  }

  // ---- what a person does ---------------------------------------------------------------------

  function go(z) {
    const next = Math.min(Math.max(Math.round(z), 0), slices - 1);
    if (next !== state.slice) { state.slice = next; refresh(); }
  }

  function setWindow(low, high) {
    const middle = (low + high) / 2;
    const half = Math.max(high - low, 2) / 2;
    state.low = middle - half;
    state.high = middle + half;
    refresh();
  }

  function toggle(name, on) {
    state[name] = on === undefined ? !state[name] : on;
    root.querySelector("[data-toggle=" + name + "]").checked = state[name];
    refresh();
  }

  function nextLesion(step) {
    const stops = data.lesions.map(function (lesion) { return lesion.key_slice; });
    const ahead = stops.filter(function (z) { return step * (z - state.slice) < 0; });
    if (ahead.length) { go(step > 0 ? Math.max(...ahead) : Math.min(...ahead)); }
  }

  function showLesion(index) {
    go(data.lesions[index].key_slice);
    root.scrollIntoView({ block: "start" });
    picture.focus({ preventScroll: true });
  }

  function zoom(spot) {
    if (state.view.zoom > 1) {
      state.view = { left: 0, top: 0, zoom: 1 };
    } else {
      const here = data.lesions.find(function (one) { return one.key_slice === state.slice; });
      const middle = here && [0, 1].map(function (k) { return (here.long_axis[0][k] + here.long_axis[1][k]) / 2; });
      const about = spot || middle || [columns / 2, rows / 2];
      look(about[0] - columns / ZOOM / 2, about[1] - rows / ZOOM / 2, ZOOM);
    }
    refresh();
  }

  // Show the part of the slice that begins at a voxel, kept inside the slice.
  function look(left, top, factor) {
    state.view = {
      left: Math.min(Math.max(left, 0), columns - columns / factor),
      top: Math.min(Math.max(top, 0), rows - rows / factor),
      zoom: factor,
    };
    refresh();
  }

  function voxelAt(event) {
    const box = canvas.getBoundingClientRect();
    const view = state.view;
    return [
      view.left + (event.clientX - box.left) / box.width * columns / view.zoom,
      view.top + (event.clientY - box.top) / box.height * rows / view.zoom,
    ];
  }

  const MOVES = { ArrowUp: 1, ArrowRight: 1, ArrowDown: -1, ArrowLeft: -1, PageUp: PAGE_STEP, PageDown: -PAGE_STEP };

  function moveByKey(event) {
    if (event.key in MOVES) { go(state.slice + MOVES[event.key]); }
    else if (event.key === "Home") { go(slices - 1); }
    else if (event.key === "End") { go(0); }
    else { return; }
    event.preventDefault();
  }

  document.addEventListener("keydown", function (event) {
    if (event.ctrlKey || event.altKey || event.metaKey || event.defaultPrevented) { return; }
    const preset = data.presets[Number(event.key) - 1];
    if (preset) { setWindow(preset.low, preset.high); }
    else if (event.key === "o") { toggle("overlay"); }
    else if (event.key === "d") { toggle("diameters"); }
    else if (event.key === "n") { nextLesion(1); }
    else if (event.key === "p") { nextLesion(-1); }
    else if (event.key === "z") { zoom(state.pointer); }
  });
  picture.addEventListener("keydown", moveByKey);
  rail.addEventListener("keydown", moveByKey);

  let scrolled = 0;
  root.querySelector(".stage").addEventListener("wheel", function (event) {
    if (event.ctrlKey) { return; }
    event.preventDefault();
    const pixels = event.deltaY * (event.deltaMode === 0 ? 1 : WHEEL_STEP);
    scrolled = Math.sign(pixels) === Math.sign(scrolled) ? scrolled + pixels : pixels;
    if (Math.abs(scrolled) >= WHEEL_STEP) {
      go(state.slice - Math.sign(scrolled));
      scrolled = 0;
    }
  }, { passive: false });

  let drag = null;
  picture.addEventListener("pointerdown", function (event) {
    if (event.button !== 0) { return; }
    drag = { pans: event.shiftKey, view: state.view, x: event.clientX, y: event.clientY, slice: state.slice, low: state.low, high: state.high };
    picture.setPointerCapture(event.pointerId);
    picture.focus({ preventScroll: true });
  });
  picture.addEventListener("pointermove", function (event) {
    state.pointer = voxelAt(event);
    say("pointer", pointerWords());
    if (!drag) { return; }
    const across = event.clientX - drag.x;
    const down = event.clientY - drag.y;
    if (event.pointerType === "touch") {
      const perSlice = Math.max(canvas.clientHeight / Math.max(slices, 20), 6);
      go(drag.slice + Math.trunc(-down / perSlice));
      return;
    }
    if (drag.pans) {
      const box = canvas.getBoundingClientRect();
      look(
        drag.view.left - across / box.width * columns / drag.view.zoom,
        drag.view.top - down / box.height * rows / drag.view.zoom,
        drag.view.zoom
      );
      return;
    }
    const width = Math.max((drag.high - drag.low) * Math.exp(across / 200), 2);
    const level = (drag.high + drag.low) / 2 + down * (drag.high - drag.low) / 400;
    if (Math.abs(across) + Math.abs(down) > 2) { setWindow(level - width / 2, level + width / 2); }
  });
  function endDrag() { drag = null; }
  picture.addEventListener("pointerup", endDrag);
  picture.addEventListener("pointercancel", endDrag);
  picture.addEventListener("pointerleave", function () { state.pointer = null; say("pointer", ""); });
  picture.addEventListener("dblclick", function (event) { zoom(voxelAt(event)); });

  function slideTo(event) {
    const box = track.getBoundingClientRect();
    go((1 - (event.clientY - box.top) / box.height) * (slices - 1));
  }
  rail.addEventListener("pointerdown", function (event) {
    rail.setPointerCapture(event.pointerId);
    slideTo(event);
  });
  rail.addEventListener("pointermove", function (event) {
    if (rail.hasPointerCapture(event.pointerId)) { slideTo(event); }
  });

  root.querySelectorAll("[data-window]").forEach(function (input) {
    input.addEventListener("input", function () {
      const level = Number(root.querySelector("[data-window=level]").value);
      const width = Number(root.querySelector("[data-window=width]").value);
      setWindow(level - width / 2, level + width / 2);
    });
  });
  root.querySelectorAll("[data-toggle]").forEach(function (box) {
    box.addEventListener("change", function () { toggle(box.dataset.toggle, box.checked); });
  });
  root.querySelectorAll("[data-class]").forEach(function (box) {
    box.addEventListener("change", function () {
      state.hidden[box.checked ? "delete" : "add"](Number(box.dataset.class));
      refresh();
    });
  });
  document.querySelectorAll("button[data-lesion]").forEach(function (button) {
    button.addEventListener("click", function () { showLesion(Number(button.dataset.lesion)); });
  });
  document.querySelectorAll(".projection svg").forEach(function (view) {
    view.addEventListener("click", function (event) {
      const box = view.getBoundingClientRect();
      go((1 - (event.clientY - box.top) / box.height) * slices - 0.5);
    });
  });

  // ---- start ----------------------------------------------------------------------------------

  data.presets.forEach(function (preset, index) {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = preset.name + " ";
    const key = document.createElement("kbd");
    key.textContent = index + 1;
    button.append(key);
    button.addEventListener("click", function () { setWindow(preset.low, preset.high); });
    root.querySelector(".presets").append(button);
  });
  data.lesions.forEach(function (lesion) {
    const mark = document.createElement("span");
    const kind = data.classes.find(function (one) { return one.label === lesion.label; });
    const top = slices > 1 ? 1 - lesion.last_slice / (slices - 1) : 0;
    const bottom = slices > 1 ? 1 - lesion.first_slice / (slices - 1) : 1;
    mark.className = "rail-mark";
    mark.style.top = 100 * top + "%";
    mark.style.height = 100 * (bottom - top) + "%";
    mark.style.background = kind.colour;
    track.prepend(mark);
  });
  picture.style.setProperty("--aspect", (columns * columnMm) / (rows * rowMm));
  picture.querySelector(".waiting").remove();
  new ResizeObserver(function () { fit(); refresh(); }).observe(canvas);
  fit();
  refresh();
})();
