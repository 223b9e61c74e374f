//! The curves over the number of meetings, as an SVG picture.

use std::fmt::Write;

use super::Step;

const WIDTH: f64 = 720.0;
const HEIGHT: f64 = 300.0;
const LEFT: f64 = 70.0;
const TOP: f64 = 40.0;
/// Between one diagram and the next.
const GAP: f64 = 90.0;

/// One diagram: its title, and a value of each step.
type Curve = (&'static str, fn(&Step) -> f64);

const CURVES: [Curve; 3] = [
    ("CPU of the edge, us per packet", |step| step.us_per_packet),
    ("added delay, ms, 99th percentile", |step| step.delay_p99_ms),
    ("cores in use by the edge", |step| step.cores),
];

/// A diagram for each of the curves, one below the other.
pub(super) fn svg(steps: &[Step]) -> String {
    let height = TOP + CURVES.len() as f64 * (HEIGHT + GAP);
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {} {height}\" font-family=\"sans-serif\" \
         font-size=\"13\">\n<rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n",
        LEFT + WIDTH + 40.0
    );
    let most = steps.iter().map(|step| step.meetings).max().unwrap_or(1).max(1) as f64;
    for (n, curve) in CURVES.iter().enumerate() {
        diagram(&mut out, steps, curve, most, TOP + n as f64 * (HEIGHT + GAP));
    }
    out + "</svg>\n"
}

fn diagram(out: &mut String, steps: &[Step], (title, value): &Curve, most: f64, top: f64) {
    let highest = steps.iter().map(value).fold(0.0, f64::max).max(0.001) * 1.1;
    let x = |step: &Step| LEFT + step.meetings as f64 / most * WIDTH;
    let y = |v: f64| top + HEIGHT * (1.0 - v / highest);
    let bottom = top + HEIGHT;
    let mut line = |text: String| {
        let _ = writeln!(out, "{text}");
    };
    line(format!("<text x=\"{LEFT}\" y=\"{}\" font-weight=\"bold\">{title}</text>", top - 12.0));
    line(format!("<path d=\"M{LEFT} {top}V{bottom}H{}\" fill=\"none\" stroke=\"black\"/>", LEFT + WIDTH));
    for part in 0..=4 {
        let v = highest * f64::from(part) / 4.0;
        line(format!("<text x=\"{}\" y=\"{}\" text-anchor=\"end\">{v:.1}</text>", LEFT - 6.0, y(v) + 4.0));
    }
    let points: Vec<String> = steps.iter().map(|step| format!("{:.1},{:.1}", x(step), y(value(step)))).collect();
    line(format!("<polyline points=\"{}\" fill=\"none\" stroke=\"steelblue\" stroke-width=\"2\"/>", points.join(" ")));
    for step in steps {
        line(format!("<circle cx=\"{:.1}\" cy=\"{:.1}\" r=\"3\" fill=\"steelblue\"/>", x(step), y(value(step))));
        line(format!(
            "<text x=\"{:.1}\" y=\"{}\" text-anchor=\"middle\">{}</text>",
            x(step),
            bottom + 18.0,
            step.meetings
        ));
    }
    line(format!("<text x=\"{}\" y=\"{}\" text-anchor=\"end\">meetings</text>", LEFT + WIDTH, bottom + 36.0));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_step_is_in_every_diagram() {
        let step = |meetings| Step { meetings, us_per_packet: 10.0, delay_p99_ms: 3.0, cores: 0.5, ..Step::default() };
        let svg = svg(&[step(10), step(20)]);
        assert_eq!(svg.matches("<circle").count(), 2 * CURVES.len());
        assert!(!svg.contains("NaN") && !svg.contains("inf"));
    }
}
