// Numbers and times in people's words.

const COUNT = new Intl.NumberFormat('en');

export const count = n => (n == null ? '–' : COUNT.format(n));

export const bookCount = n => (n === 1 ? '1 book' : `${count(n)} books`);

export const percent = (part, digits = 0) => `${(100 * part).toFixed(digits)} %`;

/** Records per second. */
export const rate = perSecond =>
  perSecond >= 10 || perSecond === 0 ? count(Math.round(perSecond)) : perSecond.toFixed(1);

/** A time span given in microseconds. */
export function span(us) {
  if (us == null) return '–';
  if (us < 1_000) return `${Math.round(us)} µs`;
  if (us < 1_000_000) return `${(us / 1_000).toPrecision(3)} ms`;
  if (us < 60_000_000) return `${(us / 1_000_000).toPrecision(3)} s`;
  return `${Math.floor(us / 60_000_000)} min ${Math.round((us / 1_000_000) % 60)} s`;
}

export function bytes(n) {
  if (n == null) return '–';
  const units = ['B', 'kB', 'MB', 'GB'];
  let unit = 0;
  while (n >= 1_000 && unit < units.length - 1) {
    n /= 1_000;
    unit += 1;
  }
  return `${unit === 0 ? n : n.toPrecision(3)} ${units[unit]}`;
}

/** Microseconds since 1970 of an RFC 3339 time; Date knows milliseconds only. */
export function micros(text) {
  const fraction = /\.(\d{1,9})/.exec(text)?.[1] ?? '';
  const whole = Date.parse(text.replace(/\.\d+/, ''));
  return whole * 1_000 + Number(fraction.slice(0, 6).padEnd(6, '0'));
}

export const clock = date => date.toLocaleTimeString('en-GB');

/** The load bands of the placement policy: where one begins, its name, and a shape beside its colour. */
const BANDS = [
  { from: 0.85, name: 'hot', shape: '▲' },
  { from: 0.7, name: 'prepare', shape: '◆' },
  { from: 0.5, name: 'watch', shape: '◐' },
  { from: 0, name: 'normal', shape: '●' },
];

export const band = load => BANDS.find(b => load >= b.from) ?? BANDS[BANDS.length - 1];
