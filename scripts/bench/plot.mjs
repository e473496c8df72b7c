// A plot of curves on logarithmic axes as SVG.
const [width, height, left, right, top, bottom] = [780, 440, 70, 210, 40, 50];
const colours = ["#1b6ca8", "#2a9d5c", "#d9822b", "#b3388f"];

const escaped = (text) => text.replaceAll("&", "&amp;").replaceAll("<", "&lt;");

/** `curves`: { name, dashed, points: [x, y][] } with x and y above 0; solid and dashed ones of one kind in pairs. */
export function plot(title, curves) {
  const all = curves.flatMap(({ points }) => points);
  const decades = (values) => [
    Math.floor(Math.log10(Math.min(...values))),
    Math.ceil(Math.log10(Math.max(...values))),
  ];
  const [x0, x1] = decades(all.map(([x]) => x));
  const [y0, y1] = decades(all.map(([, y]) => y));
  const px = (x) => left + ((Math.log10(x) - x0) / (x1 - x0)) * (width - left - right);
  const py = (y) => height - bottom - ((Math.log10(y) - y0) / (y1 - y0)) * (height - top - bottom);
  const parts = [
    `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${width} ${height}" font-family="sans-serif" font-size="12">`,
    `<rect width="${width}" height="${height}" fill="white"/>`,
    `<text x="${left}" y="22" font-size="15">${escaped(title)}</text>`,
  ];
  for (let d = x0; d <= x1; d++) {
    parts.push(
      `<line x1="${px(10 ** d)}" y1="${top}" x2="${px(10 ** d)}" y2="${height - bottom}" stroke="#ddd"/>`,
      `<text x="${px(10 ** d)}" y="${height - bottom + 18}" text-anchor="middle">${d < 0 ? "0" : 10 ** d}</text>`,
    );
  }
  for (let d = y0; d <= y1; d++) {
    parts.push(
      `<line x1="${left}" y1="${py(10 ** d)}" x2="${width - right}" y2="${py(10 ** d)}" stroke="#ddd"/>`,
      `<text x="${left - 8}" y="${py(10 ** d) + 4}" text-anchor="end">${10 ** d >= 1 ? 10 ** d : (10 ** d).toFixed(-d)}</text>`,
    );
  }
  curves.forEach(({ name, dashed, points }, i) => {
    const colour = colours[Math.floor(i / 2) % colours.length];
    const dash = dashed ? ' stroke-dasharray="5 4"' : "";
    const path = points.map(([x, y]) => `${px(x).toFixed(1)},${py(y).toFixed(1)}`).join(" ");
    parts.push(`<polyline points="${path}" fill="none" stroke="${colour}" stroke-width="2"${dash}/>`);
    for (const [x, y] of points)
      parts.push(`<circle cx="${px(x).toFixed(1)}" cy="${py(y).toFixed(1)}" r="3" fill="${colour}"/>`);
    const y = top + 10 + 20 * i;
    parts.push(
      `<line x1="${width - right + 12}" y1="${y}" x2="${width - right + 40}" y2="${y}" stroke="${colour}" stroke-width="2"${dash}/>`,
      `<text x="${width - right + 46}" y="${y + 4}">${escaped(name)}</text>`,
    );
  });
  return `${[...parts, "</svg>"].join("\n")}\n`;
}
