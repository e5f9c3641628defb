//! A line chart as SVG: what a table of figures looks like.

use std::fmt::Write as _;

/// Width and height of the picture, and of the margins around the lines, in pixels.
const SIZE: (f64, f64) = (760.0, 420.0);
const LEFT: f64 = 90.0;
const RIGHT: f64 = 190.0;
const TOP: f64 = 40.0;
const BOTTOM: f64 = 50.0;
/// Told apart without seeing colours by their order, and by the name at their end.
const COLOURS: [&str; 4] = ["#c0392b", "#2471a3", "#1e8449", "#7d6608"];

/// A line of more points has no dots.
const DOTS_MAX: usize = 50;

/// A line: its name, and its points.
pub struct Line<'a> {
    pub name: &'a str,
    pub points: Vec<(f64, f64)>,
}

/// How an axis runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scale {
    /// By powers of ten; values below 1 are drawn at 1, where it has to begin somewhere.
    Powers,
    /// Evenly, from 0.
    Even,
}

/// An axis: its name, and how it runs.
#[derive(Debug, Clone, Copy)]
pub struct Axis<'a> {
    pub name: &'a str,
    pub scale: Scale,
}

/// What an axis covers: powers of ten, or the values themselves.
#[derive(Debug, Clone, Copy)]
struct Range {
    scale: Scale,
    low: f64,
    high: f64,
    /// Between two ticks.
    step: f64,
}

impl Range {
    fn of(scale: Scale, values: impl Iterator<Item = f64>) -> Self {
        match scale {
            Scale::Powers => {
                let (low, high) = decades(values);
                Self { scale, low, high, step: 1.0 }
            }
            Scale::Even => {
                let most = values.fold(0.0f64, f64::max).max(1.0);
                let power = 10f64.powf((most / 5.0).log10().floor());
                let step = [1.0, 2.0, 5.0, 10.0].map(|n| n * power).into_iter().find(|s| s * 5.0 >= most);
                let step = step.unwrap_or(10.0 * power);
                Self { scale, low: 0.0, high: (most / step).ceil() * step, step }
            }
        }
    }

    /// Where a value lies, from 0 to 1.
    fn at(&self, value: f64) -> f64 {
        let value = if self.scale == Scale::Powers { value.max(1.0).log10() } else { value };
        (value - self.low) / (self.high - self.low)
    }

    /// Where something is written, from 0 to 1, and what.
    fn ticks(&self) -> impl Iterator<Item = (f64, String)> + '_ {
        let count = ((self.high - self.low) / self.step).round() as i32;
        (0..=count).map(|n| {
            let value = self.low + f64::from(n) * self.step;
            let text = if self.scale == Scale::Powers { short(value as i32) } else { value.to_string() };
            ((value - self.low) / (self.high - self.low), text)
        })
    }
}

/// Draws lines.
pub fn svg(title: &str, x_axis: Axis<'_>, y_axis: Axis<'_>, lines: &[Line<'_>]) -> String {
    let points = || lines.iter().flat_map(|l| &l.points);
    let range_x = Range::of(x_axis.scale, points().map(|p| p.0));
    let range_y = Range::of(y_axis.scale, points().map(|p| p.1));
    let (width, height) = (SIZE.0 - LEFT - RIGHT, SIZE.1 - TOP - BOTTOM);
    let across = |part: f64| LEFT + width * part;
    let up = |part: f64| TOP + height - height * part;
    let (x, y) = (|v: f64| across(range_x.at(v)), |v: f64| up(range_y.at(v)));
    let (x_name, y_name) = (x_axis.name, y_axis.name);
    let mut s = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {} {}\" font-family=\"sans-serif\" font-size=\"12\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n<text x=\"{LEFT}\" y=\"22\" font-size=\"15\">{title}</text>\n",
        SIZE.0, SIZE.1
    );
    for (part, text) in range_y.ticks() {
        let (at, right) = (up(part), LEFT + width);
        _ = writeln!(s, "<line x1=\"{LEFT}\" y1=\"{at:.1}\" x2=\"{right}\" y2=\"{at:.1}\" stroke=\"#ddd\"/>");
        _ = writeln!(s, "<text x=\"{}\" y=\"{:.1}\" text-anchor=\"end\">{text}</text>", LEFT - 8.0, at + 4.0);
    }
    for (part, text) in range_x.ticks() {
        let (at, below) = (across(part), TOP + height + 18.0);
        _ = writeln!(s, "<text x=\"{at:.1}\" y=\"{below}\" text-anchor=\"middle\">{text}</text>");
    }
    let (middle_x, middle_y, last) = (LEFT + width / 2.0, TOP + height / 2.0, SIZE.1 - 12.0);
    _ = writeln!(s, "<text x=\"{middle_x}\" y=\"{last}\" text-anchor=\"middle\">{x_name}</text>");
    _ = writeln!(
        s,
        "<text x=\"20\" y=\"{middle_y}\" text-anchor=\"middle\" transform=\"rotate(-90 20 {middle_y})\">{y_name}</text>"
    );
    for (line, colour) in lines.iter().zip(COLOURS.iter().cycle()) {
        let path: Vec<String> = line.points.iter().map(|p| format!("{:.1},{:.1}", x(p.0), y(p.1))).collect();
        _ = writeln!(
            s,
            "<polyline points=\"{}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"2\"/>",
            path.join(" ")
        );
        // A curve of many points is a line.
        for p in line.points.iter().filter(|_| line.points.len() <= DOTS_MAX) {
            _ = writeln!(s, "<circle cx=\"{:.1}\" cy=\"{:.1}\" r=\"3\" fill=\"{colour}\"/>", x(p.0), y(p.1));
        }
        if let Some(end) = line.points.last() {
            let (right, at) = (x(end.0) + 8.0, y(end.1) + 4.0);
            _ = writeln!(s, "<text x=\"{right:.1}\" y=\"{at:.1}\" fill=\"{colour}\">{}</text>", line.name);
        }
    }
    s.push_str("</svg>\n");
    s
}

/// The powers of ten around some values: at least one decade.
fn decades(values: impl Iterator<Item = f64>) -> (f64, f64) {
    let (low, high) = values.fold((f64::MAX, 1.0f64), |(low, high), v| (low.min(v.max(1.0)), high.max(v)));
    let low = low.min(high).log10().floor();
    (low, high.log10().ceil().max(low + 1.0))
}

fn short(decade: i32) -> String {
    let n = 10u64.pow(decade.unsigned_abs());
    match decade {
        0..3 => n.to_string(),
        3..6 => format!("{}k", n / 1_000),
        _ => format!("{}M", n / 1_000_000),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const X: Axis<'_> = Axis { name: "x", scale: Scale::Powers };
    const Y: Axis<'_> = Axis { name: "y", scale: Scale::Powers };

    fn of(drawn: &str, name: &str) -> Vec<f64> {
        let mark = format!("{name}=\"");
        drawn.split(mark.as_str()).skip(1).filter_map(|p| p.split('"').next()?.parse().ok()).collect()
    }

    #[test]
    fn every_point_of_every_line_is_within_the_picture_and_higher_is_more() {
        let points = vec![(1_000.0, 0.0), (10_000.0, 250.0), (1_000_000.0, 700_000.0)];
        for y in [Y, Axis { scale: Scale::Even, ..Y }] {
            let one = Line { name: "one", points: points.clone() };
            let drawn = svg("t", X, y, &[one, Line { name: "none", points: Vec::new() }]);
            let (xs, ys) = (of(&drawn, "cx"), of(&drawn, "cy"));
            assert_eq!((xs.len(), ys.len()), (3, 3));
            assert!(xs.iter().all(|x| (LEFT..=SIZE.0 - RIGHT).contains(x)) && xs.is_sorted());
            assert!(ys.iter().all(|y| (TOP..=SIZE.1 - BOTTOM).contains(y)) && ys.iter().rev().is_sorted());
            assert!(drawn.contains(">one<") && drawn.contains(">100k<"));
        }
    }

    #[test]
    fn an_even_axis_begins_at_nothing_and_ends_at_a_round_number() {
        let texts = |most: f64| -> Vec<String> {
            Range::of(Scale::Even, [most].into_iter()).ticks().map(|(_, text)| text).collect()
        };
        assert_eq!(texts(1_000.0), ["0", "200", "400", "600", "800", "1000"]);
        assert_eq!(texts(730.0), ["0", "200", "400", "600", "800"]);
        assert_eq!(texts(9.0), ["0", "2", "4", "6", "8", "10"]);
    }
}
