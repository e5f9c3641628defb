//! A line chart as SVG, both axes logarithmic: what a table of figures over sizes looks like.

use std::fmt::Write as _;

/// Width and height of the picture, and of the margins around the lines, in pixels.
const SIZE: (f64, f64) = (760.0, 420.0);
const LEFT: f64 = 90.0;
const RIGHT: f64 = 190.0;
const TOP: f64 = 40.0;
const BOTTOM: f64 = 50.0;
/// Told apart without seeing colours by their order, and by the name at their end.
const COLOURS: [&str; 4] = ["#c0392b", "#2471a3", "#1e8449", "#7d6608"];

/// A line: its name, and its points.
pub struct Line<'a> {
    pub name: &'a str,
    pub points: Vec<(f64, f64)>,
}

/// Draws lines; values below 1 are drawn at 1, where a logarithmic axis has to begin somewhere.
pub fn svg(title: &str, x_name: &str, y_name: &str, lines: &[Line<'_>]) -> String {
    let points = || lines.iter().flat_map(|l| &l.points);
    let (low_x, high_x) = decades(points().map(|p| p.0));
    let (low_y, high_y) = decades(points().map(|p| p.1));
    let (width, height) = (SIZE.0 - LEFT - RIGHT, SIZE.1 - TOP - BOTTOM);
    let x = |v: f64| LEFT + width * (v.max(1.0).log10() - low_x) / (high_x - low_x);
    let y = |v: f64| TOP + height - height * (v.max(1.0).log10() - low_y) / (high_y - low_y);
    let mut s = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {} {}\" font-family=\"sans-serif\" font-size=\"12\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n<text x=\"{LEFT}\" y=\"22\" font-size=\"15\">{title}</text>\n",
        SIZE.0, SIZE.1
    );
    for decade in low_y as i32..=high_y as i32 {
        let (at, right) = (y(10f64.powi(decade)), LEFT + width);
        _ = writeln!(s, "<line x1=\"{LEFT}\" y1=\"{at:.1}\" x2=\"{right}\" y2=\"{at:.1}\" stroke=\"#ddd\"/>");
        _ = writeln!(
            s,
            "<text x=\"{}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>",
            LEFT - 8.0,
            at + 4.0,
            short(decade)
        );
    }
    for decade in low_x as i32..=high_x as i32 {
        let (at, below) = (x(10f64.powi(decade)), TOP + height + 18.0);
        _ = writeln!(s, "<text x=\"{at:.1}\" y=\"{below}\" text-anchor=\"middle\">{}</text>", short(decade));
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
        for p in &line.points {
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

    #[test]
    fn every_point_of_every_line_is_within_the_picture_and_higher_is_more() {
        let points = vec![(1_000.0, 0.0), (10_000.0, 250.0), (1_000_000.0, 700_000.0)];
        let drawn = svg("t", "x", "y", &[Line { name: "one", points }, Line { name: "none", points: Vec::new() }]);
        let of = |name: &str| -> Vec<f64> {
            let mark = format!("{name}=\"");
            let parts = drawn.split(mark.as_str()).skip(1);
            parts.filter_map(|p| p.split('"').next()?.parse().ok()).collect()
        };
        let (xs, ys) = (of("cx"), of("cy"));
        assert_eq!((xs.len(), ys.len()), (3, 3));
        assert!(xs.iter().all(|x| (LEFT..=SIZE.0 - RIGHT).contains(x)) && xs.is_sorted());
        assert!(ys.iter().all(|y| (TOP..=SIZE.1 - BOTTOM).contains(y)) && ys.iter().rev().is_sorted());
        assert!(drawn.contains(">one<") && drawn.contains(">100k<"));
    }
}
