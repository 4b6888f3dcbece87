//! The section `updates`.

use super::*;
use crate::update::window::Day;

const FULL: &str = include_str!("../../../../examples/cloud-init/updates.yaml");

fn updates(default: &str, found: &str) -> Updates {
    resolve(Some(&good(default)), Some(&good(found)), None, &Document::default()).config.updates
}

#[test]
fn every_key_is_read() {
    let document = good(FULL);
    let updates = document.updates;
    assert_eq!((updates.automatic, updates.channel.as_deref()), (Some(true), Some("stable")));
    assert_eq!(updates.source.as_deref(), Some("https://updates.site.example/kubesolo-os"));
    assert_eq!((updates.interval_ms, updates.bandwidth), (Some(6 * 3_600_000), Some(2 << 20)));
    assert_eq!((updates.username.as_deref(), updates.password.as_deref()), (Some("edge"), Some("change-me")));
    assert_eq!(updates.proxy.as_deref(), Some("http://proxy.site.example:3128"));
    let shown: Vec<String> = updates.windows.unwrap().iter().map(ToString::to_string).collect();
    assert_eq!(shown, ["mon,tue,wed,thu,fri 02:00 3h Europe/Berlin", "sat,sun 00:00 12h Europe/Berlin"]);
}

#[test]
fn a_window_needs_a_start_and_a_length_and_nothing_else() {
    let windows = good("updates: {windows: [{start: 2:30, length: 90m}]}\n").updates.windows.unwrap();
    let [window] = &windows[..] else { panic!("{windows:?}") };
    assert_eq!((window.days.as_slice(), window.start_minute, window.length_minutes), (&[][..], 150, 90));
    assert_eq!(window.time_zone, "UTC");
    let days = |days: &str| {
        let text = format!("updates: {{windows: [{{days: {days}, start: 2:30, length: 90m, timezone: '+01:00'}}]}}\n");
        good(&text).updates.windows.unwrap()[0].days.clone()
    };
    use Day::*;
    assert_eq!(days("[fri, sun-mon]"), [Monday, Friday, Sunday]);
    assert_eq!(days("\"fri, sun-mon\""), [Monday, Friday, Sunday]);
    assert_eq!(days("daily"), []);
    assert_eq!(good("updates: {windows: []}\n").updates.windows, Some(Vec::new()));
}

#[test]
fn faults_have_their_places_and_near_names() {
    let text = "updates:
  automtic: true
  source: ftp://updates.example
  channel: Stable
  interval: 30s
  bandwidth: 10Mbit/s
  windows:
    - days: mon-fry
      start: \"25:00\"
      length: 8d
      time-zone: ../etc/passwd
    - {start: 2:00}
    - {start: 2:00, length: 1h, zone: UTC}
    - {start: 2:00, length: 1h, days: [daily, mon]}
  username: edge
";
    let expected = [
        "line 2, column 3: unknown key \"automtic\" in updates (did you mean automatic?)",
        "line 3, column 3: updates.source: expected https://HOST/PATH, http://HOST/PATH or oci://HOST/REPOSITORY, without user name, query and fragment",
        "line 4, column 12: updates.channel: expected a name of at most 63 lower-case letters, digits and -, found \"Stable\"",
        "line 5, column 13: updates.interval: expected at least 1m",
        "line 6, column 14: updates.bandwidth: expected bytes per second, at least 1024, or a number with kB/s, KiB/s, MB/s, MiB/s, GB/s or GiB/s, found \"10Mbit/s\"",
        "line 8, column 13: updates.windows[0].days: expected days, as in sat, mon-fri or daily, found \"mon-fry\"",
        "line 9, column 14: updates.windows[0].start: expected a local time, as in 02:00, found \"25:00\"",
        "line 10, column 15: updates.windows[0].length: expected minutes, hours or days up to a week, as in 90m, 3h or 1h30m, found \"8d\"",
        "line 11, column 18: updates.windows[0].time-zone: expected UTC, an offset as in +02:00, a name as in Europe/Berlin, or a POSIX TZ string, found \"../etc/passwd\"",
        "line 12, column 7: updates.windows[1]: the key length is missing",
        "line 13, column 33: unknown key \"zone\" in a window of updates",
        "line 14, column 33: updates.windows[3].days: expected daily alone, or days",
        "line 15, column 3: updates.username is stated and updates.password is not",
    ];
    assert_eq!(errors(text), expected);
    let many = format!("updates:\n  windows: [{}]\n", "{start: 1:00, length: 1h}, ".repeat(65));
    assert_eq!(errors(&many), ["line 2, column 12: updates.windows: expected at most 64"]);
}

#[test]
fn sources_proxies_and_rates_are_checked() {
    let source = |text: &str| parse_document(&format!("updates: {{source: \"{text}\"}}\n")).is_ok();
    for text in [
        "https://updates.example",
        "https://updates.example/",
        "http://10.0.2.2:8080/a/b",
        "https://[2001:db8::1]:8443/x",
        "oci://registry.example:5000/site/kubesolo-os",
        "oci+http://registry.lan:5000/os",
        "oci://127.0.0.1:5000/os",
    ] {
        assert!(source(text), "{text}");
    }
    for text in [
        "",
        "updates.example",
        "https://",
        "https:///x",
        "https://u:p@updates.example/",
        "https://updates.example/?q",
        "https://updates.example/#f",
        "https://updates.example:0/",
        "https://updates.example:port/",
        "file:///etc",
        "oci://registry.example",
        "oci://registry.example/",
        "oci://registry.example/OS",
        "oci://registry.example/a:tag",
        "oci://registry.example/a@sha256:00",
        "https://updates.example/a b",
        "https://updates.example/../x",
        "https://999.1.1.1.1/",
        "HTTPS://updates.example",
    ] {
        assert!(!source(text), "{text}");
    }
    let proxy = |text: &str| parse_document(&format!("updates: {{proxy: \"{text}\"}}\n")).is_ok();
    for text in ["http://proxy.example:3128", "http://proxy.example:3128/", "http://u:p@10.0.0.1:80", "http://[::1]:80"]
    {
        assert!(proxy(text), "{text}");
    }
    for text in
        ["proxy.example:3128", "https://proxy.example:3128", "http://proxy.example", "http://proxy.example:3128/x"]
    {
        assert!(!proxy(text), "{text}");
    }
    for (text, bytes) in [
        ("1024", 1024),
        ("500kB/s", 500_000),
        ("64KiB/s", 64 << 10),
        ("2MiB/s", 2 << 20),
        ("2 MiB/s", 2 << 20),
        ("3MB", 3_000_000),
        ("1GiB/s", 1 << 30),
        ("1GB/s", 1_000_000_000),
    ] {
        assert_eq!(good(&format!("updates: {{bandwidth: {text}}}\n")).updates.bandwidth, Some(bytes), "{text}");
    }
    for text in
        ["0", "1023", "1000/s", "1.5MiB/s", "-1MiB/s", "MiB/s", "2mib/s", "2M", "99999999GiB/s", "99999999999999999999"]
    {
        assert!(errors(&format!("updates: {{bandwidth: {text}}}\n"))[0].contains("bytes per second"), "{text}");
    }
}

#[test]
fn each_key_counts_by_itself_and_credentials_stay_with_their_source() {
    let default = "updates:\n  source: https://image.example/os\n  username: image\n  password: image-secret\n  \
                   proxy: http://proxy.example:3128\n  channel: stable\n  automatic: true\n";
    let merged = updates(default, "updates: {channel: beta, windows: [{start: 1:00, length: 1h}]}\n");
    assert_eq!((merged.channel.as_deref(), merged.automatic), (Some("beta"), Some(true)));
    assert_eq!(merged.windows.map(|windows| windows.len()), Some(1));
    assert_eq!((merged.username.as_deref(), merged.password.as_deref()), (Some("image"), Some("image-secret")));
    // A site with a source of its own: the image's password does not go there.
    let merged = updates(default, "updates: {source: 'https://site.example/os'}\n");
    assert_eq!(merged.source.as_deref(), Some("https://site.example/os"));
    assert_eq!((merged.username, merged.password, merged.proxy), (None, None, None));
    // A token in the place of name and password.
    let merged = updates(default, "updates: {password: token}\n");
    assert_eq!((merged.username, merged.password.as_deref()), (None, Some("token")));
    assert_eq!(updates("", ""), Updates::default());
}

#[test]
fn a_password_over_http_is_warned_about_and_shown_nowhere() {
    const SECRET: &str = "S3cr3tS3cr3t";
    let text = format!(
        "updates: {{source: 'http://a.example', password: {SECRET}, proxy: 'http://u:{SECRET}@p.example:1'}}\n"
    );
    let parsed = parse_document(&text).unwrap();
    assert_eq!(parsed.warnings.len(), 1);
    assert!(parsed.warnings[0].message.contains("everybody on the way reads it"), "{:?}", parsed.warnings);
    let resolved = resolve(None, Some(&parsed.document), None, &Document::default());
    for text in [format!("{parsed:?}"), format!("{resolved:?}")] {
        assert!(!text.contains(SECRET), "{text}");
    }
    for bad in [
        format!("updates: {{source: 'https://u:{SECRET}@a.example/'}}\n"),
        format!("updates: {{proxy: '{SECRET}'}}\n"),
        format!("updates: {{password: \"{SECRET}\\n\"}}\n"),
        format!("updates: {{password: [{SECRET}]}}\n"),
    ] {
        let found = errors(&bad).join("\n");
        assert!(!found.contains(SECRET), "{found}");
    }
}

#[test]
fn what_cloud_init_has_under_this_key_is_a_warning() {
    let parsed = parse_document("updates:\n  network: {when: [boot]}\n").unwrap();
    assert_eq!(parsed.warnings[0].to_string(), "line 2, column 3: updates.network is not supported, ignored");
    assert_eq!(parsed.document.updates, Updates::default());
}
