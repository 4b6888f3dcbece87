//! What a test reads out of a node's metrics (Prometheus text format 0.0.4).

/// A page of metrics.
#[derive(Debug, Clone, Copy)]
pub(super) struct Metrics<'a>(pub(super) &'a str);

impl<'a> Metrics<'a> {
    /// Returns the samples of a metric: labels as they stand, and the value.
    fn samples(self, name: &'a str) -> impl Iterator<Item = (&'a str, f64)> {
        self.0.lines().filter_map(move |line| {
            let rest = line.strip_prefix(name)?;
            let (labels, value) = match rest.strip_prefix('{') {
                Some(rest) => rest.rsplit_once('}')?,
                None => ("", rest.strip_prefix(' ')?),
            };
            Some((labels, value.split_ascii_whitespace().next()?.parse().ok()?))
        })
    }

    /// Returns the value of a metric without labels.
    pub(super) fn value(self, name: &'a str) -> Option<f64> {
        self.samples(name).find(|(labels, _)| labels.is_empty()).map(|(_, value)| value)
    }

    /// Returns a label of `kubesolo_os_info`.
    pub(super) fn info(self, label: &str) -> Option<&'a str> {
        self.samples("kubesolo_os_info").find_map(|(labels, _)| value_of(labels, label))
    }

    /// Whether the node says that it is healthy.
    pub(super) fn is_healthy(self) -> bool {
        let healthy = |(labels, value): (&str, f64)| value == 1.0 && value_of(labels, "verdict") == Some("healthy");
        self.samples("kubesolo_os_health").any(healthy)
    }

    /// Returns the checks that are not passed, and why the node is degraded.
    pub(super) fn complaints(self) -> Vec<String> {
        let failed = self.samples("kubesolo_os_health_check").filter(|(_, value)| *value < 1.0);
        let checks =
            failed.filter_map(|(labels, _)| Some(format!("check {} is not passed", value_of(labels, "check")?)));
        let reasons = self.samples("kubesolo_os_degraded_reason").filter(|(_, value)| *value > 0.0);
        let reasons = reasons.filter_map(|(labels, _)| Some(format!("degraded: {}", value_of(labels, "reason")?)));
        checks.chain(reasons).collect()
    }
}

/// Returns the value of a label, as it stands; values with an escaped quote end there.
fn value_of<'a>(labels: &'a str, name: &str) -> Option<&'a str> {
    let start = labels.match_indices(name).map(|(at, _)| at).find(|at| {
        let before = &labels[..*at];
        (before.is_empty() || before.ends_with(',')) && labels[at + name.len()..].starts_with("=\"")
    })?;
    labels[start + name.len() + 2..].split('"').next()
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAGE: &str = "# HELP kubesolo_os_info What runs.\n# TYPE kubesolo_os_info gauge\n\
        kubesolo_os_info{name=\"os\",version=\"1.2.3+x\",arch=\"x86_64\",slot=\"b\"} 1\n\
        kubesolo_os_boot_success 1\nkubesolo_os_boot_success_other 0\n\
        kubesolo_os_health{verdict=\"healthy\"} 0\nkubesolo_os_health{verdict=\"degraded\"} 1\n\
        kubesolo_os_health_check{check=\"disk\"} 0.5\nkubesolo_os_health_check{check=\"engine\"} 1\n\
        kubesolo_os_degraded_reason{reason=\"no data, at all\"} 1\n";

    #[test]
    fn a_page_is_read() {
        let page = Metrics(PAGE);
        assert_eq!((page.info("version"), page.info("slot"), page.info("kernel")), (Some("1.2.3+x"), Some("b"), None));
        assert_eq!((page.value("kubesolo_os_boot_success"), page.value("kubesolo_os_info")), (Some(1.0), None));
        assert!(!page.is_healthy());
        assert_eq!(page.complaints(), ["check disk is not passed", "degraded: no data, at all"]);
        assert!(Metrics("kubesolo_os_health{verdict=\"healthy\"} 1").is_healthy());
        assert!(!Metrics("<html>kubesolo_os_health").is_healthy());
    }
}
