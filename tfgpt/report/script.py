"""The script of the page: values under the pointer. The charts themselves and their switches work without it."""

from __future__ import annotations

JS = r"""
const runs = JSON.parse(document.getElementById('data').textContent), tip = document.getElementById('tip');
const plots = [...document.querySelectorAll('.plot')];
function short(v) {
  if (v == null) return '–';
  if (v && Math.abs(v) < 1e-3) return String(+v.toExponential(2)).includes('e') ? v.toExponential(2) : String(+v.toPrecision(3));
  for (const [size, unit] of [[1e12, 'T'], [1e9, 'B'], [1e6, 'M'], [1e3, 'k']])
    if (Math.abs(v) >= size) return +(v / size).toPrecision(4) + unit;
  return String(+v.toPrecision(4));
}
const clock = s => s < 60 ? short(s) + ' s' : s < 3600 ? Math.floor(s / 60) + ' min ' + Math.floor(s % 60) + ' s' :
  Math.floor(s / 3600) + ' h ' + String(Math.floor(s % 3600 / 60)).padStart(2, '0') + ' min';
function nearest(list, x) {
  let a = 0, b = list.length - 1;
  while (b - a > 1) { const m = (a + b) >> 1; list[m] < x ? a = m : b = m; }
  return b > a && x - list[a] > list[b] - x ? b : a;
}
function hide() {
  tip.hidden = true;
  document.querySelectorAll('.cross').forEach(e => e.remove());
}
function show(plot, fraction, left, top) {
  hide();
  const axis = plot.dataset.axis, low = +plot.dataset.low, high = +plot.dataset.high;
  let x = low + fraction * (high - low);
  const table = document.createElement('table');
  const row = (cells, tag) => {
    const tr = table.insertRow();
    cells.forEach(c => { const e = document.createElement(tag); e.append(c ?? '–'); tr.append(e); });
  };
  let head = null;
  runs.forEach((run, i) => {
    const box = document.getElementById('run' + i);
    if (!run.steps.length || (box && !box.checked)) return;
    const n = nearest(run[axis], x), evals = run.evals.filter(e => e[0] <= run.steps[n]).pop();
    const facts = [['step', run.steps[n].toLocaleString('en')], ['tokens', short(run.tokens[n])], ['time', clock(run.time[n])],
      ['loss', short(run.loss[n])], ['perplexity', run.loss[n] == null ? '–' : short(Math.exp(run.loss[n]))],
      ['evaluation', evals ? short(evals[1]) + (evals[0] < run.steps[n] ? ' at ' + evals[0].toLocaleString('en') : '') : '–'],
      ['learning rate', short(run.lr[n])], ['gradient norm', short(run.norm[n])], ['tokens/s', short(run.rate[n])]];
    if (runs.length == 1) { x = run[axis][n]; facts.forEach(f => row(f, 'td')); return; }
    const name = document.createElement('span'), mark = document.createElement('span');
    mark.className = 'swatch c' + i % 6; name.append(mark, run.name);
    if (!head) { head = facts; row(['', ...facts.slice(0, 6).map(f => f[0])], 'th'); }
    row([name, ...facts.slice(0, 6).map(f => f[1])], 'td');
  });
  if (!table.rows.length) return;
  tip.replaceChildren(table);
  tip.hidden = false;
  const width = tip.offsetWidth, height = tip.offsetHeight;
  tip.style.left = Math.max(8, left + 18 + width > innerWidth ? left - width - 18 : left + 18) + 'px';
  tip.style.top = Math.max(8, Math.min(top - height / 2, innerHeight - height - 8)) + 'px';
  plots.filter(p => p.offsetParent).forEach(p => {
    const line = document.createElement('div');
    line.className = 'cross'; line.style.left = 100 * (x - low) / (high - low) + '%';
    p.append(line);
  });
}
plots.forEach(plot => {
  const at = e => { const r = plot.getBoundingClientRect(); show(plot, (e.clientX - r.left) / r.width, e.clientX, e.clientY); };
  plot.addEventListener('pointermove', at);
  plot.addEventListener('pointerdown', at);
  plot.addEventListener('pointerleave', hide);
});
addEventListener('scroll', hide, {passive: true});
addEventListener('keydown', e => { if (e.key == 'Escape') hide(); });
"""
