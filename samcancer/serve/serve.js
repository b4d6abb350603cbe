// The page of `samcancer serve`: send one scan, follow it, show the result.
// Names of files stay here: the server knows them as file-00000, file-00001, ..., and its messages
// get the true names back before they are shown, always as text and never as markup.
(function () {
  "use strict";

  const AT_ONCE = 4; // files of a series that travel side by side
  const POLL_MS = 400;
  const RETRY_MS = 2000;
  const REMEMBERED = "samcancer-scan";
  const HEADERS = { "X-SAMCancer": "1" };
  const STEPS = ["uploading", "waiting", "reading", "segmenting", "writing", "drawing"];
  const DOWNLOADS = { mask: "Mask", report: "Report", lesions: "Lesions", dicom: "DICOM", page: "Page" };
  const DOING = {
    reading: "Reading and checking the scan",
    segmenting: "Segmenting",
    writing: "Writing the mask and reading it back",
    drawing: "Drawing the page",
  };

  let info = null;
  let scan = null; // {id, names, title} of the scan at hand
  let uploads = []; // requests under way
  let timer = null;

  const one = (selector) => document.querySelector(selector);
  const all = (selector) => Array.from(document.querySelectorAll(selector));

  function put(key, text) {
    all('[data-text="' + key + '"]').forEach(function (element) {
      if (element.textContent !== text) { element.textContent = text; }
    });
  }

  // What is shown has the focus, so that keys and screen readers go on from there.
  function show(view) {
    const changed = document.body.dataset.view !== view;
    document.body.dataset.view = view;
    if (view !== "result") { one(".viewer-frame").removeAttribute("src"); }
    const heading = one('[data-for="' + view + '"] h2');
    if (changed && heading) {
      heading.tabIndex = -1;
      heading.focus({ preventScroll: true });
    }
  }

  // ---- words ------------------------------------------------------------------------------------

  function size(bytes) {
    const units = ["bytes", "kB", "MB", "GB"];
    const power = bytes < 1 ? 0 : Math.min(3, Math.floor(Math.log10(bytes) / 3));
    const value = bytes / Math.pow(1000, power);
    return (power === 0 || value >= 100 ? Math.round(value) : Number(value.toPrecision(2))) + " " + units[power];
  }

  function duration(seconds) {
    if (seconds < 90) { return Math.max(1, Math.round(seconds)) + " s"; }
    if (seconds < 5400) { return Math.round(seconds / 60) + " min"; }
    return Number((seconds / 3600).toPrecision(2)) + " h";
  }

  function withTrueNames(text) {
    const called = /\b(file|entry)-(\d{5})(\.nii\.gz|\.nii|\.mha|\.nrrd|\.zip)?/g;
    return text.replace(called, function (whole, kind, number) {
      if (kind === "entry") { return "file " + (Number(number) + 1) + " of the archive"; }
      return (scan && scan.names[Number(number)]) || whole;
    });
  }

  // ---- requests ---------------------------------------------------------------------------------

  async function ask(method, path) {
    const answer = await fetch(path, { method: method, headers: HEADERS, cache: "no-store" });
    const content = answer.status === 204 ? null : await answer.json().catch(() => null);
    if (!answer.ok) {
      const error = new Error((content && content.error) || "The server answered with " + answer.status + ".");
      error.status = answer.status;
      throw error;
    }
    return content;
  }

  function send(path, file, onProgress) {
    return new Promise(function (resolve, reject) {
      const request = new XMLHttpRequest();
      uploads.push(request);
      request.upload.onprogress = (event) => onProgress(event.loaded);
      request.onload = function () {
        if (request.status === 204) { onProgress(file.size); resolve(); return; }
        let told = null;
        try { told = JSON.parse(request.responseText).error; } catch (_) { /* no words came along */ }
        reject(new Error(told || "The upload was refused (" + request.status + ")."));
      };
      request.onerror = () => reject(new Error("The connection broke while the scan was sent."));
      request.onabort = () => reject(new Error("aborted"));
      request.open("PUT", path);
      request.setRequestHeader("X-SAMCancer", "1");
      request.setRequestHeader("Content-Type", "application/octet-stream");
      request.send(file);
    });
  }

  // ---- choosing ---------------------------------------------------------------------------------

  function suffixOf(name) {
    const lower = name.toLowerCase();
    return info.suffixes.find((suffix) => lower.endsWith(suffix)) || "";
  }

  // Why these files cannot be one scan, or null.
  function objection(files) {
    const total = files.reduce((sum, file) => sum + file.size, 0);
    const whole = files.filter((file) => suffixOf(file.name));
    if (files.length === 0) { return "There is no file in it."; }
    if (whole.length > 0 && files.length > 1) {
      return "These are " + files.length + " files, and " + whole[0].name + " is a whole scan by itself. Give one scan at a time.";
    }
    if (files.length > info.max_files) {
      return files.length + " files are more than the " + info.max_files + " that one scan may have.";
    }
    if (total > info.max_upload_bytes) {
      return size(total) + " is more than the limit of " + size(info.max_upload_bytes) + ".";
    }
    return null;
  }

  async function filesOfDrop(transfer) {
    const entries = Array.from(transfer.items || [])
      .map((item) => item.webkitGetAsEntry && item.webkitGetAsEntry())
      .filter(Boolean);
    if (entries.length === 0) { return Array.from(transfer.files); }
    const found = [];
    async function walk(entry) {
      if (entry.isFile) {
        found.push(await new Promise((resolve, reject) => entry.file(resolve, reject)));
        return;
      }
      const reader = entry.createReader();
      for (;;) {
        const batch = await new Promise((resolve, reject) => reader.readEntries(resolve, reject));
        if (batch.length === 0) { return; }
        for (const child of batch) { await walk(child); }
      }
    }
    for (const entry of entries) { await walk(entry); }
    return found;
  }

  function complain(text) {
    const place = one(".problem");
    place.textContent = text;
    place.hidden = text === "";
  }

  function take(chosen) {
    if (info === null || document.body.dataset.view !== "start") { return; }
    const files = chosen.filter((file) => !file.name.startsWith("."));
    const problem = objection(files);
    complain(problem || "");
    if (problem === null) { run(files); }
  }

  // ---- one scan ---------------------------------------------------------------------------------

  function titleOf(files) {
    if (files.length === 1) { return files[0].name; }
    const folder = (files[0].webkitRelativePath || "").split("/")[0];
    return (folder || "DICOM series") + ", " + files.length + " files";
  }

  async function run(files) {
    scan = { id: null, names: files.map((file) => file.name), title: titleOf(files) };
    put("name", scan.title);
    show("work");
    const total = files.reduce((sum, file) => sum + file.size, 0);
    progress("uploading", 0, "Sending " + size(total), "");
    try {
      const job = await ask("POST", "/api/jobs?files=" + files.length + "&bytes=" + total);
      scan.id = job.id;
      await sendAll(files, total);
      follow(await ask("POST", "/api/jobs/" + scan.id + "/start"));
      remember();
    } catch (error) {
      await uploadFailed(error);
    }
  }

  async function sendAll(files, total) {
    const sent = files.map(() => 0);
    const started = performance.now();
    let next = 0;
    function tell() {
      const done = sent.reduce((sum, count) => sum + count, 0);
      const seconds = (performance.now() - started) / 1000;
      const left = done > 0 && seconds > 2 ? "about " + duration(seconds / done * (total - done)) + " left" : "";
      progress("uploading", total ? done / total : 1, "Sent " + size(done) + " of " + size(total), left);
    }
    async function worker() {
      while (next < files.length) {
        const number = next;
        next += 1;
        const path = "/api/jobs/" + scan.id + "/files/" + number + "?suffix=" + encodeURIComponent(suffixOf(files[number].name));
        await send(path, files[number], function (count) { sent[number] = count; tell(); });
      }
    }
    await Promise.all(Array.from({ length: AT_ONCE }, worker));
    uploads = [];
  }

  // A connection that the server closed says nothing, but the server keeps the reason.
  async function uploadFailed(error) {
    uploads.forEach((request) => request.abort());
    uploads = [];
    if (scan === null) { return; }
    let message = error.message;
    if (scan.id !== null) {
      const job = await ask("GET", "/api/jobs/" + scan.id).catch(() => null);
      if (job && job.error) { message = job.error; }
      ask("DELETE", "/api/jobs/" + scan.id).catch(() => null);
    }
    fail(message);
  }

  function follow(job) {
    clearTimeout(timer);
    if (job.state === "done") { finish(job); return; }
    if (job.state === "failed") { fail(job.error || "The scan was cancelled."); return; }
    if (job.state === "waiting") { tellWaiting(job.position); } else { tellRunning(job); }
    timer = setTimeout(poll, POLL_MS);
  }

  async function poll() {
    try {
      follow(await ask("GET", "/api/jobs/" + scan.id));
    } catch (error) {
      if (error.status !== undefined) { fail(error.message); return; }
      put("left", "The server does not answer; still trying.");
      timer = setTimeout(poll, RETRY_MS);
    }
  }

  function tellWaiting(position) {
    const before = position === 1 ? "one scan is before yours" : position + " scans are before yours";
    progress("waiting", null, position === 0 ? "Next in line" : "Waiting: " + before, "");
  }

  function tellRunning(job) {
    const ended = job.stage === "segmenting" && job.slices_done > 0 && job.slices_done === job.slices_total;
    const counted = job.stage === "segmenting" && job.slices_total && !ended;
    const doing = ended ? "All slices are done; looking at whole lesions" : DOING[job.stage];
    const text = counted ? job.slices_done + " of " + job.slices_total + " slices" : doing;
    const left = job.seconds_left === null || !counted ? "" : "about " + duration(job.seconds_left) + " left";
    progress(job.stage, counted && job.slices_done ? job.slices_done / job.slices_total : null, text, left);
  }

  function progress(step, share, text, left) {
    const at = STEPS.indexOf(step);
    all(".steps li").forEach(function (item, index) {
      item.classList.toggle("past", index < at);
      item.classList.toggle("present", index === at);
      if (index === at) { item.setAttribute("aria-current", "step"); } else { item.removeAttribute("aria-current"); }
    });
    const bar = one("progress");
    if (share === null) { bar.removeAttribute("value"); } else { bar.value = share; }
    put("doing", text);
    put("left", left);
    document.title = (share === null ? "" : Math.round(100 * share) + " % ") + "SAMCancer";
  }

  function fail(message) {
    clearTimeout(timer);
    forget();
    put("error", withTrueNames(message));
    document.title = "SAMCancer";
    show("failed");
  }

  function finish(job) {
    const base = "/api/jobs/" + job.id + "/results/";
    put("name", scan.title);
    const order = (result) => (Object.keys(DOWNLOADS).indexOf(result.kind) + 1) || Infinity;
    const results = job.results.sort((a, b) => order(a) - order(b));
    one(".downloads").replaceChildren(...results.map((result) => downloadLink(base, result)));
    const page = job.results.find((result) => result.kind === "page");
    const frame = one(".viewer-frame");
    frame.hidden = page === undefined;
    if (page) { frame.src = base + page.name; }
    document.title = "Done: SAMCancer";
    show("result");
    countDown(job.kept_s);
  }

  function downloadLink(base, result) {
    const link = document.createElement("a");
    const ending = result.name.replace(/^[^.]*/, "");
    const stem = scan.names.length === 1 ? scan.names[0].slice(0, -(suffixOf(scan.names[0]).length || Infinity)) || scan.names[0] : "scan";
    link.className = "button";
    link.href = base + result.name + "?download";
    link.download = stem + (result.kind === "mask" ? "_mask" : "") + ending;
    link.title = result.name.replace(/^[^.]*\./, "").toUpperCase() + ", " + size(result.bytes);
    const sign = document.createElementNS("http://www.w3.org/2000/svg", "svg");
    sign.setAttribute("viewBox", "0 0 16 16");
    sign.setAttribute("aria-hidden", "true");
    const path = document.createElementNS("http://www.w3.org/2000/svg", "path");
    path.setAttribute("d", "M8 2v8m0 0L5 7m3 3 3-3M2.5 13.5h11");
    sign.append(path);
    link.append(sign, labelOf(result));
    return link;
  }

  // scan.seg.dcm is "DICOM SEG".
  function labelOf(result) {
    const label = DOWNLOADS[result.kind] || result.name;
    return result.kind === "dicom" ? label + " " + result.name.split(".").slice(1, -1).join(" ").toUpperCase() : label;
  }

  // Says how long the results stay, and returns to the start when they are gone.
  function countDown(seconds) {
    clearTimeout(timer);
    if (seconds <= 0) { fail("The results have been removed, as they are after " + duration(info.keep_s) + "."); return; }
    put("kept", "removed in " + duration(seconds));
    const step = Math.min(seconds, seconds > 120 ? 30 : 1);
    timer = setTimeout(() => countDown(seconds - step), step * 1000);
  }

  function again() {
    clearTimeout(timer);
    scan = null;
    forget();
    one("#file").value = "";
    one("#folder").value = "";
    document.title = "SAMCancer";
    complain("");
    show("start");
  }

  async function deleteScan() {
    const id = scan && scan.id;
    uploads.forEach((request) => request.abort());
    again();
    if (id) { await ask("DELETE", "/api/jobs/" + id).catch(() => null); }
  }

  // ---- across a reload --------------------------------------------------------------------------

  function remember() { sessionStorage.setItem(REMEMBERED, JSON.stringify(scan)); }

  function forget() { sessionStorage.removeItem(REMEMBERED); }

  async function resume() {
    const kept = sessionStorage.getItem(REMEMBERED);
    if (kept === null) { return; }
    scan = JSON.parse(kept);
    put("name", scan.title);
    try {
      const job = await ask("GET", "/api/jobs/" + scan.id);
      show("work");
      follow(job);
    } catch (_) {
      again();
    }
  }

  // ---- start ------------------------------------------------------------------------------------

  function listen() {
    all("[data-choose]").forEach(function (button) {
      const input = one("#" + button.dataset.choose);
      button.addEventListener("click", () => input.click());
      input.addEventListener("change", () => { if (input.files.length) { take(Array.from(input.files)); } });
    });
    all("[data-do]").forEach(function (button) {
      button.addEventListener("click", button.dataset.do === "delete" ? deleteScan : again);
    });
    let inside = 0;
    window.addEventListener("dragenter", function (event) {
      event.preventDefault();
      inside += 1;
      document.body.classList.add("dragging");
    });
    window.addEventListener("dragleave", function () {
      inside -= 1;
      if (inside <= 0) { inside = 0; document.body.classList.remove("dragging"); }
    });
    window.addEventListener("dragover", (event) => event.preventDefault());
    window.addEventListener("drop", async function (event) {
      event.preventDefault();
      inside = 0;
      document.body.classList.remove("dragging");
      take(await filesOfDrop(event.dataTransfer));
    });
    window.addEventListener("beforeunload", function (event) {
      if (uploads.length > 0) { event.preventDefault(); }
    });
  }

  async function begin() {
    listen();
    info = await ask("GET", "/api/info");
    put("version", info.version);
    put("limit", size(info.max_upload_bytes));
    put("keep", duration(info.keep_s));
    put("classes", info.classes.join(", ") + (info.device === "cuda" ? ", on a GPU" : ""));
    await resume();
    document.body.dataset.ready = "true";
  }

  begin().catch(() => complain("The server does not answer. Reload the page."));
})();
