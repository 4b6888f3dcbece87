use std::collections::BTreeSet;

use serde_json::json;

use super::super::facts::read_facts;
use super::super::health;
use super::super::tests::{foreign, run};
use super::*;
use crate::sys::double::Double;

/// Returns a node with every fact there is.
fn machine() -> Double {
    let sys = Double::new();
    let runtime = json!({
        "format": 1, "image": {"name": "demo", "version": "1.2.3", "arch": "x86_64", "epoch": 0}, "hostname": "demo",
        "modules": [], "sysctl": {}, "data": {"label": "KSOLODATA", "mount": "/data", "persist": []},
        "directories": [], "container_images": [], "services": {}, "console_shell": false,
    });
    let status = json!({
        "format": 1, "state": "ready", "degraded": ["a \"quoted\" reason", "x".repeat(900), "x".repeat(901)],
        "name": "demo", "version": "1.2.3", "arch": "x86_64", "slot": "a", "root": "slot", "secure_boot": "on",
        "lockdown": "integrity", "boot": 4, "persistent": true, "ready_ms": 5320,
        "stages": [{"number": 4, "name": "root", "ok": true, "ms": 250}, {"number": 30, "name": "data", "ok": false, "ms": 12}],
        "services": [{"name": "kubesolo", "state": "ready", "pid": 7, "restarts": 3, "required": true},
                     {"name": "extra", "state": "backoff", "pid": null, "restarts": 0, "required": false}],
        "data": "/data", "handover_ms": 1800, "services_ms": 2620, "modules_locked": true,
        "configuration": {"source": "nocloud", "place": "/dev/sr0", "stored": false, "instance_id": "i-1",
                          "warnings": ["a", "b"], "errors": []},
    });
    sys.put("/usr/lib/ksos/runtime.json", runtime.to_string());
    sys.put("/run/ksos/status.json", status.to_string());
    sys.put("/proc/self/mountinfo", "31 22 254:4 / /data rw,nodev shared:1 - ext4 /dev/vda4 rw\n");
    sys.put("/proc/meminfo", "MemTotal: 2048 kB\nMemAvailable: 1024 kB\n");
    sys.put("/proc/loadavg", "0.50 1.00 2.25 1/200 4242\n");
    sys.put("/sys/class/watchdog/watchdog0/state", "active\n");
    sys.put("/sys/class/watchdog/watchdog0/timeout", "30\n");
    sys.put(
        "/run/ksos/network.json",
        "{\"online\":true,\"problems\":[\"a\"],\"interfaces\":[{\"name\":\"eth0\",\"carrier\":true},{},\
        {\"name\":\"eth0\",\"carrier\":false}],\
        \"time\":{\"synchronised\":true,\"offset_ms\":-250,\"last_sync_unix\":1700000000}}",
    );
    let update = json!({"available": "1.3.0", "last": {"version": "1.2.3", "result": "succeeded"}});
    sys.put("/run/ksos/update.json", update.to_string());
    sys.put("/run/ksos/bootstate.json", "{\"trial\":\"b\",\"left\":2}");
    sys.now.set(12_345);
    sys
}

fn page(sys: &Double, format: Format) -> String {
    let facts = read_facts(sys);
    let health = health::evaluate_facts(sys, &facts);
    render(sys, &facts, &health, Own { rejected: 2, kubeconfig: (true, 1) }, format)
}

fn assert_lines(text: &str, lines: &[&str]) {
    for line in lines {
        assert!(text.lines().any(|other| other == *line), "{line} is not in:\n{text}");
    }
}

#[test]
fn a_whole_page() {
    let text = page(&machine(), Format::Text);
    assert_lines(
        &text,
        &[
            "kubesolo_os_info{name=\"demo\",version=\"1.2.3\",arch=\"x86_64\",slot=\"a\",root=\"slot\",secure_boot=\"on\",\
             lockdown=\"integrity\",kernel=\"6.12.0-test\"} 1",
            "kubesolo_os_boot_success 0",
            "kubesolo_os_boot_counter 2",
            "kubesolo_os_uptime_seconds 12.345",
            "kubesolo_os_update_available 1",
            "kubesolo_os_memory_total_bytes 2097152",
            "kubesolo_os_memory_available_bytes 1048576",
            "kubesolo_os_ready 1",
            "kubesolo_os_degraded 1",
            "kubesolo_os_degraded_reason{reason=\"a \\\"quoted\\\" reason\"} 1",
            "kubesolo_os_boots 4",
            "kubesolo_os_ready_seconds 5.32",
            "kubesolo_os_boot_stage_seconds{stage=\"04\",name=\"root\"} 0.25",
            "kubesolo_os_boot_stage_success{stage=\"30\",name=\"data\"} 0",
            "kubesolo_os_service_up{service=\"extra\"} 0",
            "kubesolo_os_service_restarts_total{service=\"kubesolo\"} 3",
            "kubesolo_os_health{verdict=\"degraded\"} 1",
            "kubesolo_os_health_check{check=\"boot\"} 0.5",
            "kubesolo_os_load_average{minutes=\"15\"} 2.25",
            "kubesolo_os_watchdog_active 1",
            "kubesolo_os_watchdog_timeout_seconds 30",
            "kubesolo_os_data_read_only 0",
            "kubesolo_os_data_size_bytes 8589934592",
            "kubesolo_os_data_inodes_free 262144",
            "kubesolo_os_handover_seconds 1.8",
            "kubesolo_os_services_started_seconds 2.62",
            "kubesolo_os_modules_locked 1",
            "kubesolo_os_configuration_errors 0",
            "kubesolo_os_configuration_warnings 2",
            "kubesolo_os_configuration_info{source=\"nocloud\",place=\"/dev/sr0\",instance=\"i-1\"} 1",
            "kubesolo_os_network_problems 1",
            "kubesolo_os_network_carrier{interface=\"eth0\"} 1",
            "kubesolo_os_time_last_sync_seconds 1700000000",
            "kubesolo_os_network_online 1",
            "kubesolo_os_time_synchronised 1",
            "kubesolo_os_time_offset_seconds -0.25",
            "kubesolo_os_update_last_result{version=\"1.2.3\",result=\"succeeded\"} 1",
            "kubesolo_os_kubeconfig_fetches_total 1",
            "kubesolo_os_agent_connections_rejected_total 2",
        ],
    );
    // Two reasons that differ behind the cut are one series.
    let long: Vec<&str> =
        text.lines().filter(|line| line.starts_with("kubesolo_os_degraded_reason{reason=\"xxx")).collect();
    assert_eq!(long, [format!("kubesolo_os_degraded_reason{{reason=\"{}\"}} 1", "x".repeat(LABEL_LIMIT))]);
}

#[test]
fn names_that_are_always_there() {
    let text = page(&Double::new(), Format::Text);
    assert_lines(
        &text,
        &[
            "kubesolo_os_boot_success 0",
            "kubesolo_os_boot_counter 0",
            "kubesolo_os_uptime_seconds 1",
            "kubesolo_os_update_available 0",
            "kubesolo_os_health{verdict=\"unhealthy\"} 1",
        ],
    );
    assert!(text.contains("kubesolo_os_info{name=\"unknown\""), "{text}");
    let sys = machine();
    sys.remove("/run/ksos/bootstate.json").expect("removed");
    sys.remove("/run/ksos/update.json").expect("removed");
    let text = page(&sys, Format::Text);
    let lines = ["kubesolo_os_boot_success 1", "kubesolo_os_boot_counter 0", "kubesolo_os_update_available 0"];
    assert_lines(&text, &lines);
}

#[test]
fn numbers_of_series_are_bounded() {
    let sys = machine();
    let reasons: Vec<String> = (0..5000).map(|number| format!("reason {number}")).collect();
    let services: Vec<serde_json::Value> = (0..5000)
        .map(|number| json!({"name": number.to_string(), "state": "ready", "pid": null, "restarts": 0, "required": false}))
        .collect();
    let mut status: serde_json::Value = serde_json::from_str(&sys.text("/run/ksos/status.json")).expect("JSON");
    status["degraded"] = json!(reasons);
    status["services"] = json!(services);
    sys.put("/run/ksos/status.json", status.to_string());
    let text = page(&sys, Format::Text);
    assert_eq!(text.matches("kubesolo_os_degraded_reason{").count(), SERIES_LIMIT);
    assert_eq!(text.matches("kubesolo_os_service_up{").count(), SERIES_LIMIT);
}

/// The document has what the page has, but for what only the process that serves it knows.
#[test]
fn the_document_has_the_samples_of_the_page() {
    for sys in [machine(), Double::new()] {
        let facts = read_facts(&sys);
        let document = document(&sys, &facts, &health::evaluate_facts(&sys, &facts));
        assert_eq!(document["format"], 1);
        let metrics = document["metrics"].as_array().expect("a list");
        let mut names: Vec<&str> = metrics.iter().map(|metric| metric["name"].as_str().expect("a name")).collect();
        names.extend([
            "kubesolo_os_kubeconfig_served",
            "kubesolo_os_kubeconfig_fetches_total",
            "kubesolo_os_agent_connections_rejected_total",
        ]);
        let page = page(&sys, Format::Text);
        let served: Vec<&str> =
            page.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next()).collect();
        assert_eq!(names, served);
        let samples = metrics.iter().flat_map(|metric| metric["samples"].as_array().expect("a list"));
        assert_eq!(samples.count() + 3, page.lines().filter(|line| !line.starts_with('#')).count());
    }
    let sys = machine();
    let mut out = Vec::new();
    assert_eq!(crate::agent::metrics(&sys, &["--json".to_owned()], &mut out), 0);
    let printed: serde_json::Value = serde_json::from_slice(&out).expect("JSON");
    let find = |name: &str| {
        let metrics = printed["metrics"].as_array().expect("a list");
        metrics.iter().find(|metric| metric["name"] == name).unwrap_or_else(|| panic!("{name}: {printed:#}"))
    };
    assert_eq!(find("kubesolo_os_boot_counter")["samples"], json!([{"labels": {}, "value": 2.0}]));
    let restarts = find("kubesolo_os_service_restarts_total");
    assert_eq!(
        (&restarts["type"], &restarts["samples"][0]["labels"]),
        (&json!("counter"), &json!({"service": "kubesolo"}))
    );
    for wrong in [&["--json", "--listen", ":1"][..], &["--json=1"], &["--text"]] {
        let (arguments, mut out) = (wrong.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>(), Vec::new());
        assert_eq!(crate::agent::metrics(&sys, &arguments, &mut out), 2, "{wrong:?}");
        assert!(String::from_utf8_lossy(&out).starts_with("usage: "), "{wrong:?}");
    }
}

/// The one complaint is about a name that is fixed.
#[test]
fn promtool_takes_the_page() {
    if !foreign("promtool", &["--version"]) {
        return;
    }
    for sys in [machine(), Double::new()] {
        let (status, output) = run("promtool", &["check", "metrics"], &page(&sys, Format::Text));
        let complaints: Vec<&str> = output.lines().filter(|line| !line.trim().is_empty()).collect();
        assert_eq!(
            complaints,
            ["kubesolo_os_boot_counter metric name should not include type 'counter'"],
            "exit status {status:?}"
        );
    }
}

/// promtool reads OpenMetrics only with times, which samples of a scrape do not have.
#[test]
fn promtool_reads_open_metrics() {
    if !foreign("promtool", &["--version"]) {
        return;
    }
    let text = page(&machine(), Format::OpenMetrics);
    assert!(text.ends_with("\n# EOF\n"));
    let timed: String = text
        .lines()
        .map(|line| if line.starts_with('#') { format!("{line}\n") } else { format!("{line} 1700000000\n") })
        .collect();
    let directory = tempfile::tempdir().expect("a directory");
    let (input, output) = (directory.path().join("page"), directory.path().join("blocks"));
    #[expect(clippy::disallowed_methods, reason = "a foreign tool reads a file")]
    std::fs::write(&input, timed).expect("written");
    let paths = [input.to_string_lossy().into_owned(), output.to_string_lossy().into_owned()];
    let (status, said) = run("promtool", &["tsdb", "create-blocks-from", "openmetrics", &paths[0], &paths[1]], "");
    assert_eq!(status, Some(0), "{said}\n{text}");
}

/// The documentation names every metric, and no other.
#[test]
fn documented() {
    const DOCUMENT: &str = include_str!("../../../../docs/observability.md");
    let documented: BTreeSet<&str> = DOCUMENT
        .split('`')
        .filter_map(|text| text.split('{').next())
        .filter(|text| text.starts_with("kubesolo_os_"))
        .collect();
    let page = page(&machine(), Format::Text);
    let served: BTreeSet<&str> =
        page.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next()).collect();
    assert_eq!(documented, served);
}
