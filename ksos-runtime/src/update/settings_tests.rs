use serde_json::{Value, json};

use super::*;
use crate::sys::double::Double;

/// A node with an image that takes updates, a site that says `updates`, and data at `/data`.
fn node(updates: &Value) -> Double {
    let sys = Double::new();
    let window = json!({"days": ["monday"], "start_minute": 120, "length_minutes": 60, "time_zone": "UTC"});
    let runtime = json!({
        "format": 1, "image": {"name": "edge", "version": "1.0.0", "arch": "x86_64", "epoch": 1}, "hostname": "edge",
        "modules": [], "sysctl": {}, "data": {"label": "KSOLODATA", "mount": "/data", "persist": []},
        "directories": [], "container_images": [], "services": {}, "console_shell": false,
        "update": {"board": "generic", "source": "https://image.example/os", "channel": "stable", "automatic": true,
                   "interval_ms": 21_600_000, "gate_ms": 600_000, "hold_ms": 60_000, "windows": [window]},
    });
    sys.put(layout::RUNTIME_CONFIG, runtime.to_string());
    let mut site = serde_json::to_value(NodeConfig::default()).expect("JSON");
    let fields = site["updates"].as_object_mut().expect("a section");
    fields.extend(updates.as_object().expect("an object").clone());
    sys.put(layout::NODE_CONFIG, site.to_string());
    sys.put(status::PATH, json!({"data": "/data/", "persistent": true}).to_string());
    sys
}

#[test]
fn without_a_site_the_image_says_everything() {
    let settings = Settings::read(&node(&json!({}))).expect("settings");
    assert_eq!((settings.channel.as_str(), settings.automatic, settings.interval_ms), ("stable", true, 21_600_000));
    assert_eq!((settings.gate_ms, settings.hold_ms, settings.windows.len()), (600_000, 60_000, 1));
    assert_eq!((settings.directory.as_str(), settings.persistent), ("/data/ksos/update", true));
    let source = SourceSettings {
        url: "https://image.example/os".to_owned(),
        ca_bundle: AUTHORITIES.map(str::to_owned).to_vec(),
        ..SourceSettings::default()
    };
    assert_eq!(settings.source, source);
}

#[test]
fn a_site_overlays_each_of_them() {
    let window = json!({"days": [], "start_minute": 0, "length_minutes": 30, "time_zone": "Europe/Berlin"});
    let sys = node(&json!({
        "source": "oci://registry.example/os", "channel": "beta", "automatic": false, "interval_ms": 3_600_000,
        "windows": [window], "bandwidth": 1_000_000, "username": "node", "password": "opensesame",
        "proxy": "http://proxy.example:3128",
    }));
    sys.put(&format!("{}/release.pub", layout::UPDATE_COSIGN_KEYS), "a key");
    let settings = Settings::read(&sys).expect("settings");
    let source = SourceSettings {
        url: "oci://registry.example/os".to_owned(),
        username: Some("node".to_owned()),
        password: Some("opensesame".to_owned()),
        proxy: Some("http://proxy.example:3128".to_owned()),
        bandwidth: Some(1_000_000),
        // The bundle of the node has the site's authorities with the image's, and is looked for first.
        ca_bundle: vec!["/run/ksos/ca-certificates.crt".to_owned(), "/etc/ssl/certs/ca-certificates.crt".to_owned()],
        cosign_keys: vec!["a key".to_owned()],
    };
    assert_eq!(settings.source, source);
    assert_eq!((settings.channel.as_str(), settings.automatic, settings.interval_ms), ("beta", false, 3_600_000));
    assert_eq!(settings.windows.iter().map(|window| window.time_zone.as_str()).collect::<Vec<_>>(), ["Europe/Berlin"]);
    // The gate is of the image: a site cannot make a version be kept sooner.
    assert_eq!((settings.gate_ms, settings.hold_ms), (600_000, 60_000));
}

#[test]
fn a_site_may_take_the_windows_away_and_not_look_without_pause() {
    let settings = Settings::read(&node(&json!({"windows": [], "interval_ms": 1}))).expect("settings");
    assert_eq!((settings.windows.len(), settings.interval_ms), (0, SHORTEST_INTERVAL_MS));
}

#[test]
fn credentials_are_for_the_configured_source_alone() {
    let site = json!({"username": "node", "password": "opensesame", "proxy": "http://proxy.example", "bandwidth": 5});
    let settings = Settings::read(&node(&site)).expect("settings");
    assert_eq!(settings.source.password.as_deref(), Some("opensesame"));
    let mut same = settings.clone();
    same.use_source("https://image.example/os");
    assert_eq!(same, settings);
    for other in [
        "https://evil.example/os",
        "http://image.example/os",
        "https://image.example:8443/os",
        "https://image.example/os/",
        "https://image.example.evil.example/os",
        "oci://image.example/os",
    ] {
        let mut settings = settings.clone();
        settings.use_source(other);
        assert_eq!(
            (settings.source.url.as_str(), &settings.source.username, &settings.source.password),
            (other, &None, &None)
        );
        // How the site gets out, and how fast, is not about the source.
        assert_eq!(
            (settings.source.proxy.as_deref(), settings.source.bandwidth),
            (Some("http://proxy.example"), Some(5))
        );
    }
}

#[test]
fn what_is_missing_or_damaged_is_an_error_with_its_place() {
    let said = |sys: &Double| Settings::read(sys).expect_err("not read").to_string();
    let sys = node(&json!({}));
    sys.put(layout::NODE_CONFIG, "{");
    assert!(said(&sys).starts_with(layout::NODE_CONFIG), "{}", said(&sys));
    let sys = node(&json!({}));
    sys.put(layout::RUNTIME_CONFIG, "\0");
    assert!(said(&sys).starts_with(layout::RUNTIME_CONFIG), "{}", said(&sys));
    assert_eq!(said(&Double::new()), format!("{}: is not there", layout::RUNTIME_CONFIG));
    // Without the documents of this boot, data does not last.
    let sys = node(&json!({}));
    sys.remove(status::PATH).expect("removed");
    let settings = Settings::read(&sys).expect("settings");
    assert_eq!((settings.directory.as_str(), settings.persistent), ("/data/ksos/update", false));
}
