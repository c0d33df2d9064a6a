// What WCAG 2.2 asks of a page as simple as ours, checked on the page as it is shown; returns a list of complaints.
const complaints = [];
const say = (what, element) => complaints.push(`${what}: ${element ? element.outerHTML.slice(0, 80) : ''}`);
const parse = (color) => { const n = color.match(/[\d.]+/g).map(Number); return {rgb: n.slice(0, 3), alpha: n[3] ?? 1}; };
const luminance = (rgb) => {
  const [r, g, b] = rgb.map(v => v / 255).map(v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
  return 0.2126 * r + 0.7152 * g + 0.0722 * b;
};
const contrast = (one, other) => {
  const [high, low] = [luminance(one), luminance(other)].sort((a, b) => b - a);
  return (high + 0.05) / (low + 0.05);
};
const behind = (element) => {
  for (let e = element; e; e = e.parentElement) {
    const background = parse(getComputedStyle(e).backgroundColor);
    if (background.alpha == 1) return background.rgb;
  }
  return [255, 255, 255];
};
// 1.4.3 Contrast (minimum): 4.5:1 for text.
const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
for (let node; (node = walker.nextNode());) {
  const element = node.parentElement;
  if (!node.textContent.trim() || !element.offsetParent) continue;
  const found = contrast(parse(getComputedStyle(element).color).rgb, behind(element));
  if (found < 4.5) say(`contrast ${found.toFixed(2)}`, element);
}
// 1.4.10 Reflow: nothing to scroll sideways for.
if (document.documentElement.scrollWidth > innerWidth) say(`${document.documentElement.scrollWidth} wide in ${innerWidth}`);
for (const element of document.querySelectorAll('main, main *')) {
  const box = element.getBoundingClientRect();
  if (box.width && (box.right > innerWidth + 1 || box.left < -1)) say('sticks out', element);
}
// 3.1.1 Language, 2.4.2 Page titled, 1.3.1 Headings.
if (!document.documentElement.lang) say('no language');
if (!document.title) say('no title');
if (document.querySelectorAll('h1').length != 1) say('not exactly one h1');
if (document.querySelectorAll('main').length != 1) say('not exactly one main');
// 4.1.2 Names, 2.4.7 Focus visible, 2.5.8 Target size.
for (const element of document.querySelectorAll('button, a, input:not([type=hidden])')) {
  if (!(element.textContent.trim() || element.labels?.length || element.ariaLabel)) say('no name', element);
  const box = element.getBoundingClientRect();
  if (element.tagName == 'BUTTON' && box.height < 40) say(`only ${box.height} px high`, element);
  element.focus({focusVisible: true});
  const style = getComputedStyle(element);
  if (document.activeElement != element) say('takes no focus', element);
  else if (style.outlineStyle == 'none' || parseFloat(style.outlineWidth) < 2) say('focus is not seen', element);
  else if (contrast(parse(style.outlineColor).rgb, behind(document.body)) < 3) say('focus is hardly seen', element);
  element.blur();
}
return complaints;
