// A photo with translucent masks: labels are switched on and off, the one under the pointer is named, all in the page.
// props.value: null, or {title, photo, ids, labels: [{name, color, share, score}], opacity}.
// `photo` and `ids` are data URLs; red in `ids` is the index of the pixel's label.
const load = (url) =>
  new Promise((resolve, reject) => {
    const image = new Image();
    image.onload = () => resolve(image);
    image.onerror = reject;
    image.src = url;
  });

const percent = (share) => (share < 0.01 ? '< 1 %' : `${Math.round(share * 100)} %`);

const readIds = (image) => {
  const canvas = document.createElement('canvas');
  [canvas.width, canvas.height] = [image.naturalWidth, image.naturalHeight];
  const context = canvas.getContext('2d', { willReadFrequently: true });
  context.imageSmoothingEnabled = false;
  context.drawImage(image, 0, 0);
  const pixels = context.getImageData(0, 0, canvas.width, canvas.height).data;
  return Uint8Array.from({ length: pixels.length / 4 }, (_, index) => pixels[4 * index]);
};

const paintMasks = (ids, width, height, labels, shown) => {
  const canvas = document.createElement('canvas');
  [canvas.width, canvas.height] = [width, height];
  const context = canvas.getContext('2d');
  const masks = context.createImageData(width, height);
  for (let index = 0; index < ids.length; index++) {
    const id = ids[index];
    if (!shown.has(id)) continue;
    const right = (index + 1) % width ? ids[index + 1] : id;
    const below = index + width < ids.length ? ids[index + width] : id;
    const color = right !== id || below !== id ? [255, 255, 255] : labels[id].color;
    masks.data.set([...color, 255], 4 * index);
  }
  context.putImageData(masks, 0, 0);
  return canvas;
};

const show = async () => {
  const value = props.value;
  const find = (selector) => element.querySelector(selector);
  const [title, empty, stage, controls, tip] = ['.title', '.empty', '.stage', '.controls', '.tip'].map(find);
  title.textContent = value ? value.title : '';
  empty.textContent = props.hint;
  empty.hidden = Boolean(value);
  empty.style.display = value ? 'none' : '';
  stage.hidden = controls.hidden = !value;
  if (!value) return;

  const [photo, map] = await Promise.all([load(value.photo), load(value.ids)]);
  const ids = readIds(map);
  // A fresh canvas, so that no listener of an earlier photo is left on it.
  const canvas = find('canvas').cloneNode();
  find('canvas').replaceWith(canvas);
  [canvas.width, canvas.height] = [map.naturalWidth, map.naturalHeight];
  const context = canvas.getContext('2d');
  const present = value.labels.map((label, id) => ({ ...label, id })).filter((label) => label.share > 0);
  present.sort((one, other) => other.share - one.share);
  canvas.ariaLabel = present.map((label) => `${label.name} ${percent(label.share)}`).join(', ');
  const shown = new Set(present.filter((label) => label.color).map((label) => label.id));
  let opacity = value.opacity;

  const draw = () => {
    context.drawImage(photo, 0, 0, canvas.width, canvas.height);
    context.globalAlpha = opacity;
    context.drawImage(paintMasks(ids, canvas.width, canvas.height, value.labels, shown), 0, 0);
    context.globalAlpha = 1;
  };

  const chips = present.filter((label) => label.color).map((label) => {
    const chip = document.createElement('label');
    chip.className = 'chip';
    chip.style.setProperty('--swatch', `rgb(${label.color})`);
    const box = Object.assign(document.createElement('input'), { type: 'checkbox', checked: true });
    const share = Object.assign(document.createElement('span'), { textContent: percent(label.share) });
    chip.append(box, document.createElement('i'), label.name, share);
    box.onchange = () => {
      box.checked ? shown.add(label.id) : shown.delete(label.id);
      draw();
    };
    return chip;
  });
  const slider = document.createElement('label');
  slider.className = 'opacity';
  const range = document.createElement('input');
  Object.assign(range, { type: 'range', min: 0, max: 1, step: 0.05, value: opacity });
  range.oninput = () => {
    opacity = Number(range.value);
    draw();
  };
  slider.append('opacity', range);
  controls.replaceChildren(...chips, slider);

  // The place that is pointed at, 0 to 1 in each direction; arrow keys move it, Enter chooses it.
  let place = [0.5, 0.5];
  const point = ([x, y]) => {
    place = [x, y].map((side) => Math.min(Math.max(side, 0), 0.9999));
    const [column, row] = [Math.floor(place[0] * canvas.width), Math.floor(place[1] * canvas.height)];
    const label = value.labels[ids[row * canvas.width + column]];
    tip.textContent = label.score === null ? label.name : `${label.name}, score ${label.score.toFixed(2)}`;
    tip.style.left = `${Math.min(place[0], 0.75) * 100}%`;
    tip.style.top = `${Math.max(place[1], 0.15) * 100}%`;
    tip.hidden = false;
  };
  const fromEvent = (event) => {
    const box = canvas.getBoundingClientRect();
    return [(event.clientX - box.left) / box.width, (event.clientY - box.top) / box.height];
  };
  canvas.onpointermove = (event) => point(fromEvent(event));
  canvas.onpointerleave = canvas.onblur = () => (tip.hidden = true);
  canvas.onfocus = () => canvas.matches(':focus-visible') && point(place);
  canvas.onclick = (event) => {
    point(fromEvent(event));
    trigger('select', { x: place[0], y: place[1] });
  };
  const moves = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
  canvas.onkeydown = (event) => {
    if (event.key in moves) point(place.map((side, axis) => side + 0.02 * moves[event.key][axis]));
    else if (event.key === 'Enter') trigger('select', { x: place[0], y: place[1] });
    else return;
    event.preventDefault();
  };
  draw();
};

watch('value', show);
show();
