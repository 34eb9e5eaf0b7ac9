"""The style sheet of the page. Colours are Okabe and Ito's, which colour-blind people tell apart, lightened for dark."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

CSS = """
:root{color-scheme:light dark;--bg:#fff;--ink:#1b1f24;--soft:#59636e;--line:#d8dee4;--grid:#eceff2;--card:#f6f8fa;
--c0:#0072b2;--c1:#d55e00;--c2:#008f68;--c3:#b8548f;--c4:#b07a00;--c5:#2b93cf;--bad:#c02d1b;
--step:#0072b2;--data:#e69f00;--compile:#cc79a7;--eval:#009e73;--save:#56b4e9;--lost:#d55e00;--other:#a5adb6}
@media(prefers-color-scheme:dark){:root{--bg:#0e1217;--ink:#e8ecf1;--soft:#9ba6b2;--line:#303842;--grid:#1c232b;
--card:#161c23;--c0:#58b0ec;--c1:#ff8f4d;--c2:#35cfa2;--c3:#eba3cd;--c4:#f2bd4b;--c5:#97d8ff;--bad:#ff7a68;
--step:#3f9ddc;--data:#f0b13a;--compile:#dd94bd;--eval:#2fc49a;--save:#8fd0f7;--lost:#ff8545;--other:#65707c}}
*{box-sizing:border-box}
body{margin:0;background:var(--bg);color:var(--ink);font:15px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,sans-serif}
main{max-width:1080px;margin:0 auto;padding:28px 24px 60px}
h1{font-size:26px;line-height:1.2;margin:0;overflow-wrap:anywhere}
h2{font-size:18px;margin:44px 0 12px}
.sub{color:var(--soft);margin:6px 0 0}
.state{display:inline-block;padding:1px 10px;border-radius:99px;border:1px solid currentColor;font-size:13px;
font-weight:600;vertical-align:3px;margin-left:8px;white-space:nowrap}
.state.done{color:var(--c2)}.state.open{color:var(--c0)}.state.stop{color:var(--bad)}
.tiles{display:grid;grid-template-columns:repeat(auto-fit,minmax(150px,1fr));gap:10px;margin:22px 0 8px;padding:0}
.tiles div{background:var(--card);border:1px solid var(--line);border-radius:8px;padding:10px 14px}
.tiles dt{color:var(--soft);font-size:13px}
.tiles dd{margin:0;font-size:20px;font-weight:600;line-height:1.4;white-space:nowrap;font-variant-numeric:tabular-nums}
.tiles dd small{display:block;white-space:normal;line-height:1.35;font-size:12.5px;font-weight:400;color:var(--soft)}
.charts{position:relative}
.charts>input{position:absolute;opacity:0;pointer-events:none}
.bar{position:sticky;top:0;z-index:3;background:var(--bg);display:flex;flex-wrap:wrap;gap:6px 16px;padding:10px 0;
align-items:center;border-bottom:1px solid var(--line);margin-top:28px}
.set{display:inline-flex;border:1px solid var(--line);border-radius:7px;overflow:hidden}
.set label{padding:3px 13px;cursor:pointer;font-size:14px;color:var(--soft);user-select:none}
.set label+label{border-left:1px solid var(--line)}
.set label:hover{color:var(--ink)}
.key{display:inline-flex;gap:6px;align-items:center;font-size:14px;color:var(--soft)}
label.key{cursor:pointer;color:var(--ink)}
.key svg{width:26px;height:10px;overflow:visible}
.chart{margin:20px 0 0;padding:0}
figcaption{font-size:14px;margin:0 0 5px;padding:0 58px 0 52px;display:flex;gap:8px}
figcaption span{color:var(--soft);white-space:nowrap}figcaption .right{margin-left:auto}
.plot{position:relative;height:118px;margin:0 58px 24px 52px;touch-action:pan-y;outline-offset:3px}
.tall .plot{height:350px}
.plot svg{position:absolute;inset:0;width:100%;height:100%;pointer-events:none;border-bottom:1px solid var(--line)}
.plot path{fill:none;stroke:var(--c);vector-effect:non-scaling-stroke;stroke-linecap:round;stroke-linejoin:round}
.plot .grid{stroke:var(--grid);stroke-width:1;stroke-linecap:butt}
.raw{stroke-width:1;opacity:.3}
.smooth,.line{stroke-width:2}
.lost{stroke-width:1.3;stroke-dasharray:2 4;opacity:.75}
.evals{stroke-width:1.2;opacity:.8}.dots,.points{stroke-width:7}
.one .evals,.one .points{--c:var(--c1)}
.many .smooth{stroke-width:1.7}
.d1{stroke-dasharray:7 4}.d2{stroke-dasharray:2 4}.dots.d1,.dots.d2,.points.d1,.points.d2{stroke-dasharray:none}
.c0{--c:var(--c0)}.c1{--c:var(--c1)}.c2{--c:var(--c2)}.c3{--c:var(--c3)}.c4{--c:var(--c4)}.c5{--c:var(--c5)}
.plot .rule{stroke:var(--soft);stroke-width:1;stroke-dasharray:3 4;opacity:.55;stroke-linecap:butt}
.plot .rollback,.plot .nonfinite,.plot .save_failed,.plot .fallback,.plot .skipped{--m:var(--bad);stroke:var(--bad)}
.plot i{position:absolute;font:12px/1 system-ui,sans-serif;color:var(--soft);white-space:nowrap;
font-variant-numeric:tabular-nums;pointer-events:none}
.plot .y{right:calc(100% + 7px);transform:translateY(-50%)}
.plot .r{left:calc(100% + 7px);transform:translateY(-50%)}
.plot .x{top:calc(100% + 7px);transform:translateX(-50%)}
.mark{position:absolute;top:-2px;transform:translateX(-50%);width:17px;height:17px;border-radius:50%;text-align:center;
font:700 11px/17px system-ui,sans-serif;color:var(--bg);background:var(--m,var(--soft));cursor:help}
.many .mark{background:var(--c)}
.cross{position:absolute;top:0;bottom:0;width:1px;background:var(--ink);opacity:.45;pointer-events:none}
#tip{position:fixed;z-index:9;pointer-events:none;background:var(--bg);border:1px solid var(--line);border-radius:8px;
box-shadow:0 4px 18px #0004;padding:8px 12px;font-size:13px;max-width:92vw;font-variant-numeric:tabular-nums}
#tip table{width:auto;margin:0;font-size:13px}#tip td,#tip th{border:0;padding:0 12px 0 0;white-space:nowrap}
.share{display:flex;height:26px;border-radius:6px;overflow:hidden;background:var(--grid);margin:6px 0}
.share span{min-width:1px;border-right:1px solid var(--bg)}
.swatch{display:inline-block;width:11px;height:11px;border-radius:3px;margin-right:8px;background:var(--c)}
.p-step{--c:var(--step)}.p-data{--c:var(--data)}.p-compile{--c:var(--compile)}.p-eval{--c:var(--eval)}
.p-save{--c:var(--save)}.p-lost{--c:var(--lost)}.p-other{--c:var(--other)}.share span{background:var(--c)}
.scroll{overflow-x:auto}header+.scroll{margin-top:18px}
table{border-collapse:collapse;width:100%;font-size:14px;font-variant-numeric:tabular-nums}
th,td{text-align:left;padding:5px 14px 5px 0;border-bottom:1px solid var(--line);vertical-align:top}
th{color:var(--soft);font-weight:500}td.n,th.n{text-align:right}td.n,td.name{white-space:nowrap}td.part{padding-left:19px;text-indent:-19px}
td.v{font-family:ui-monospace,Menlo,Consolas,monospace;font-size:13px;overflow-wrap:anywhere}
.narrow table{width:auto;min-width:min(100%,460px)}
.kind{font-weight:600;white-space:nowrap}.kind.bad{color:var(--bad)}
details{margin:14px 0}summary{cursor:pointer;color:var(--soft)}
.sample{border-left:3px solid var(--line);padding:1px 0 1px 14px;margin:14px 0}
.sample p{margin:0;color:var(--soft);font-size:13px}
.sample pre{margin:4px 0;white-space:pre-wrap;overflow-wrap:anywhere;font:14px/1.5 ui-monospace,Menlo,Consolas,monospace}
.sample pre b{font-weight:600;color:var(--c0)}
footer{margin-top:48px;color:var(--soft);font-size:13px}
@media(max-width:640px){main{padding:18px 12px 40px}.tiles{grid-template-columns:1fr 1fr}.tall .plot{height:260px}
.plot{margin-left:42px;margin-right:44px}figcaption{padding:0 44px 0 42px}.plot .alt{visibility:hidden}
.bar{gap:6px 10px;position:static}.key{font-size:13px}.tiles dd{font-size:19px}}
@media print{.bar{position:static}.plot,.sample,tr{break-inside:avoid}}
"""


def switches(switched: Mapping[str, Sequence[str]]) -> str:
    """Rules by which radio buttons choose among the drawn forms of a chart, so that the page works without a script."""
    rules = []
    for name, values in switched.items():
        for value in values:
            box, label = f"#{name}-{value}", f"~.bar [for={name}-{value}]"
            rules.append(
                f"{box}:not(:checked)~figure .{value}{{display:none}}"
                f"{box}:checked{label}{{background:var(--ink);color:var(--bg)}}"
                f"{box}:focus-visible{label}{{outline:2px solid var(--c0);outline-offset:-2px}}"
            )
    return "".join(rules)


def run_switches(count: int) -> str:
    """Rules by which the check boxes in the legend hide one of several runs."""
    return "".join(
        f"#run{i}:not(:checked)~figure .r{i}{{display:none}}#run{i}:not(:checked)~.bar [for=run{i}]{{opacity:.4}}"
        f"#run{i}:focus-visible~.bar [for=run{i}]{{outline:2px solid var(--c0)}}"
        for i in range(count)
    )
