//! The two text formats that Prometheus reads.
//!
//! - Text format 0.0.4 (Prometheus documentation, "Exposition formats").
//! - OpenMetrics 1.0.0 (the specification of that name): counters are declared without `_total`, an info without
//!   `_info`, and the end is marked.

use std::fmt::Write as _;

/// Which format.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::agent) enum Format {
    /// Text format 0.0.4.
    Text,
    /// OpenMetrics 1.0.0.
    OpenMetrics,
}

impl Format {
    /// Returns the media type.
    pub(in crate::agent) fn content_type(self) -> &'static str {
        match self {
            Format::Text => "text/plain; version=0.0.4; charset=utf-8",
            Format::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
        }
    }

    /// Chooses by an `Accept` field (RFC 9110, section 12.5.1): OpenMetrics only where it is named and wanted at least
    /// as much as plain text.
    pub(in crate::agent) fn negotiate(accept: &str) -> Self {
        let weight = |wanted: &[&str]| -> f64 {
            let items = accept.split(',').map(|item| item.split(';').map(str::trim));
            let weights = items.filter_map(|mut item| {
                let kind = item.next().filter(|kind| wanted.iter().any(|other| other.eq_ignore_ascii_case(kind)));
                let parameters: Vec<&str> = item.collect();
                let quality = parameters.iter().find_map(|parameter| parameter.strip_prefix("q="));
                kind.map(|_| quality.map_or(1.0, |quality| quality.trim().parse().unwrap_or(0.0)))
            });
            weights.fold(0.0, f64::max)
        };
        let open = weight(&["application/openmetrics-text"]);
        if open > 0.0 && open >= weight(&["text/plain", "text/*"]) { Format::OpenMetrics } else { Format::Text }
    }
}

/// What a metric is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::agent) enum Kind {
    /// A value that goes up and down.
    Gauge,
    /// A value that only grows; its name ends with `_total`.
    Counter,
    /// Labels with the value 1; its name ends with `_info`.
    Info,
}

impl Kind {
    /// Returns its name in the JSON document, as OpenMetrics has it.
    pub(in crate::agent) fn name(self) -> &'static str {
        match self {
            Kind::Gauge => "gauge",
            Kind::Counter => "counter",
            Kind::Info => "info",
        }
    }
}

/// A metric.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::agent) struct Metric {
    /// Whole name.
    pub(in crate::agent) name: &'static str,
    /// What it is.
    pub(in crate::agent) kind: Kind,
    /// One sentence.
    pub(in crate::agent) help: &'static str,
}

/// One value.
#[derive(Debug, Clone, PartialEq)]
pub(in crate::agent) struct Sample {
    /// Labels.
    pub(in crate::agent) labels: Vec<(&'static str, String)>,
    /// Value.
    pub(in crate::agent) value: f64,
}

/// Appends a metric with its samples; one without samples is left out.
pub(in crate::agent) fn append(text: &mut String, format: Format, metric: &Metric, samples: &[Sample]) {
    if samples.is_empty() {
        return;
    }
    let (family, kind) = match (format, metric.kind) {
        (_, Kind::Gauge) => (metric.name, "gauge"),
        (Format::Text, Kind::Info) => (metric.name, "gauge"),
        (Format::Text, Kind::Counter) => (metric.name, "counter"),
        (Format::OpenMetrics, Kind::Info) => (metric.name.trim_end_matches("_info"), "info"),
        (Format::OpenMetrics, Kind::Counter) => (metric.name.trim_end_matches("_total"), "counter"),
    };
    // Writing to a string does not fail.
    let _ = write!(text, "# HELP {family} {}\n# TYPE {family} {kind}\n", metric.help);
    for sample in samples {
        text.push_str(metric.name);
        append_labels(text, &sample.labels);
        let _ = writeln!(text, " {}", sample.value);
    }
}

/// Appends what ends an answer.
pub(in crate::agent) fn finish(text: &mut String, format: Format) {
    if format == Format::OpenMetrics {
        text.push_str("# EOF\n");
    }
}

fn append_labels(text: &mut String, labels: &[(&'static str, String)]) {
    for (index, (name, value)) in labels.iter().enumerate() {
        text.push(if index == 0 { '{' } else { ',' });
        text.push_str(name);
        text.push_str("=\"");
        for character in value.chars() {
            match character {
                '\\' => text.push_str("\\\\"),
                '"' => text.push_str("\\\""),
                '\n' => text.push_str("\\n"),
                other => text.push(other),
            }
        }
        text.push('"');
    }
    if !labels.is_empty() {
        text.push('}');
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn example(format: Format) -> String {
        let metrics = [
            Metric { name: "a_info", kind: Kind::Info, help: "An info." },
            Metric { name: "b_total", kind: Kind::Counter, help: "A counter." },
            Metric { name: "c", kind: Kind::Gauge, help: "A gauge." },
        ];
        let labels = vec![("x", "a\"b\\c\nd".to_owned()), ("y", String::new())];
        let mut text = String::new();
        append(&mut text, format, &metrics[0], &[Sample { labels, value: 1.0 }]);
        append(&mut text, format, &metrics[1], &[Sample { labels: Vec::new(), value: 8_589_934_592.0 }]);
        append(&mut text, format, &metrics[2], &[Sample { labels: Vec::new(), value: -0.25 }]);
        append(&mut text, format, &metrics[2], &[]);
        finish(&mut text, format);
        text
    }

    #[test]
    fn both_formats() {
        let sample = "a_info{x=\"a\\\"b\\\\c\\nd\",y=\"\"} 1\n";
        assert_eq!(
            example(Format::Text),
            format!(
                "# HELP a_info An info.\n# TYPE a_info gauge\n{sample}\
                 # HELP b_total A counter.\n# TYPE b_total counter\nb_total 8589934592\n\
                 # HELP c A gauge.\n# TYPE c gauge\nc -0.25\n"
            )
        );
        assert_eq!(
            example(Format::OpenMetrics),
            format!(
                "# HELP a An info.\n# TYPE a info\n{sample}\
                 # HELP b A counter.\n# TYPE b counter\nb_total 8589934592\n\
                 # HELP c A gauge.\n# TYPE c gauge\nc -0.25\n# EOF\n"
            )
        );
    }

    #[test]
    fn negotiation() {
        let prometheus = "application/openmetrics-text;version=1.0.0;q=0.5,application/openmetrics-text;version=0.0.1;\
                          q=0.4,text/plain;version=0.0.4;q=0.3,*/*;q=0.2";
        for (accept, expected) in [
            (prometheus, Format::OpenMetrics),
            ("application/openmetrics-text", Format::OpenMetrics),
            ("text/plain;version=0.0.4;q=0.5, application/openmetrics-text; version=1.0.0; q=0.6", Format::OpenMetrics),
            ("", Format::Text),
            ("*/*", Format::Text),
            ("text/plain, application/openmetrics-text;q=0.9", Format::Text),
            ("application/openmetrics-text;q=0", Format::Text),
            ("application/openmetrics-text;q=x", Format::Text),
            (";;,,=,;q=", Format::Text),
        ] {
            assert_eq!(Format::negotiate(accept), expected, "{accept}");
        }
    }
}
