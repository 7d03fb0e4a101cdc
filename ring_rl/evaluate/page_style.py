"""How the report looks: on screens of any width, light or dark, and on paper."""

STYLE = """
:root { color-scheme: light dark; --paper: #ffffff; --ink: #1d2125; --faint: #5b6168;
        --line: #d9dde1; --panel: #f5f6f8; --warn: #9a3412; --warn-paper: #fff4ed;
        --link: #0b5cad; }
@media (prefers-color-scheme: dark) {
  :root { --paper: #121212; --ink: #e6e6e6; --faint: #a3a9b0; --line: #3a3f45;
          --panel: #1d1f22; --warn: #ffb48a; --warn-paper: #2c1a10; --link: #86bdf5; }
  /* Charts are drawn on white: lightness turned round, hues kept. */
  img.chart, .swatch { filter: invert(.93) hue-rotate(180deg); }
}
* { box-sizing: border-box; }
body { font: 16px/1.5 system-ui, -apple-system, "Segoe UI", sans-serif; margin: 0 auto;
       color: var(--ink); background: var(--paper); max-width: 78rem;
       padding: 1rem clamp(.8rem, 3vw, 2rem) 3rem; }
h1 { font-size: 1.6rem; line-height: 1.2; margin: .5rem 0; }
h2 { font-size: 1.3rem; margin: 2.8rem 0 .8rem; padding-bottom: .2rem;
     border-bottom: 2px solid var(--line); overflow-wrap: anywhere; }
h3 { font-size: 1.05rem; margin: 2rem 0 .4rem; }
p, dl, ul { max-width: 48rem; }
a { color: var(--link); }
code { font-size: .92em; overflow-wrap: anywhere; }
nav ul { list-style: none; padding: 0; display: flex; flex-wrap: wrap;
         gap: .2rem 1rem; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .25rem 1rem; }
dt { font-weight: 600; } dd { margin: 0; }
.note, figcaption, caption { color: var(--faint); font-size: .9rem; }
.warn { border-left: 4px solid var(--warn); background: var(--warn-paper);
        padding: .5rem 1rem; color: var(--warn); max-width: 48rem;
        overflow-wrap: anywhere; }
.warn ul { margin: .3rem 0; padding-left: 1.2rem; }
.scroll { overflow-x: auto; margin: .4rem 0 1rem; }
.scroll:focus-visible { outline: 2px solid var(--link); }
table { border-collapse: collapse; font-variant-numeric: tabular-nums;
        font-size: .93rem; }
/* In sight while the numbers below it are scrolled. */
caption { text-align: left; padding: .2rem 0 .4rem; position: sticky; left: 0;
          max-width: min(48rem, calc(100vw - 2rem)); }
th, td { padding: .35rem .7rem; text-align: right; vertical-align: top;
         border-bottom: 1px solid var(--line); white-space: nowrap; }
thead th { border-bottom: 2px solid var(--line); font-weight: 600; }
th[scope=row] { font-weight: 600; text-align: left; padding-left: 0;
                background: var(--paper); white-space: normal; min-width: 9rem;
                max-width: 17rem; overflow-wrap: anywhere; }
thead th:first-child { text-align: left; padding-left: 0; }
th.text, td.text { text-align: left; }
td small { color: var(--faint); white-space: nowrap; }
.swatch { display: inline-block; width: .75em; height: .75em; border-radius: 2px;
          margin-right: .45em; print-color-adjust: exact; }
.figures { display: grid; gap: 1.4rem 2rem; align-items: start;
           grid-template-columns: repeat(auto-fit, minmax(min(100%, 29rem), 1fr)); }
figure { margin: 0; max-width: 40rem; }
figure img { display: block; width: 100%; height: auto; }
figure:has(.strip) { max-width: none; }
figure img.strip { width: 100%; min-width: 54rem; }
figure img.film { width: auto; max-width: 100%; min-width: min(100%, 12rem); }
details { margin: .6rem 0; } summary { cursor: pointer; }
footer { margin-top: 3rem; border-top: 1px solid var(--line); }
@media (max-width: 34rem) {
  body { font-size: 15px; }
  dl { grid-template-columns: 1fr; } dd { margin: 0 0 .4rem; }
  /* The run stays in sight while its numbers are scrolled. */
  th[scope=row], thead th:first-child { position: sticky; left: 0;
    background: var(--paper); min-width: 7.5rem; max-width: 9rem;
    padding-right: .6rem; }
}
@page { margin: 14mm; }
@media print {
  body { max-width: none; font-size: 10pt; padding: 0; }
  nav, details.film { display: none; }
  .scroll { overflow: visible; } table { font-size: 8pt; }
  th, td { padding: .2rem .35rem; white-space: normal; }
  figure, tr, .warn { break-inside: avoid; } h2, h3 { break-after: avoid; }
  .figures { grid-template-columns: 1fr 1fr; }
  figure img.strip { min-width: 0; }
}
"""
