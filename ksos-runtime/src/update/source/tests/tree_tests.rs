//! Published trees, and what HTTP servers do to their clients.

use std::sync::atomic::{AtomicUsize, Ordering};

use super::server::{Reply, Seen, Server, Then, file};
use super::*;

const CHUNKS: &str = "/os/edge-1.2.0%2Bbuild.7-arm64.update/slot.chunks";
const RELEASE: &str = "/os/edge-1.2.0%2Bbuild.7-arm64.update/release.json";

/// Starts a server that has a release, whose chunks `chunks` answers for; the number counts its requests for them.
fn with_chunks(chunks: impl Fn(&Seen, usize) -> Reply + Send + Sync + 'static) -> (Server, Opened) {
    let asked = AtomicUsize::new(0);
    let server = Server::start(move |seen| match seen.target() {
        CHUNKS => chunks(seen, asked.fetch_add(1, Ordering::SeqCst)),
        RELEASE => Reply::new(200, "", "envelope"),
        _ => Reply::new(404, "", ""),
    });
    let mut source = open_test(&settings(server.url("http", "os/")));
    assert_eq!(source.open_release().expect("a release"), b"envelope");
    (server, source)
}

/// Starts a server that gives every request the same answer.
fn always(reply: Reply) -> (Server, Opened) {
    let server = Server::start(move |_| reply.clone());
    let source = open_test(&settings(server.url("http", "os")));
    (server, source)
}

fn refused(reply: Reply) -> String {
    always(reply).1.channel().expect_err("refused").to_string()
}

#[test]
fn everything_is_where_it_was_published() {
    let (index, chunks) = (bytes(3000), bytes(200_000));
    let (index_blob, chunks_blob) = (blob(&index), blob(&chunks));
    let server = Server::start(move |seen| match seen.target() {
        "/os/channels/stable/edge-arm64.json" => Reply::new(200, "", "channel"),
        "/os/keys/2.json" => Reply::new(200, "", "keys"),
        "/os/keys/4.json" => Reply::new(403, "", ""),
        RELEASE => Reply::new(200, "Content-Type: application/json\r\n", "envelope"),
        "/os/edge-1.2.0%2Bbuild.7-arm64.update/slot.index" => file(seen, &index, ""),
        CHUNKS => file(seen, &chunks, "ETag: \"one\"\r\n"),
        _ => Reply::new(404, "", "no"),
    });
    let mut source = open_test(&settings(server.url("http", "os/")));
    assert!(matches!(source.source.index(&index_blob), Err(SourceError::NotOpen)));
    assert_eq!(source.channel().expect("a channel"), b"channel");
    assert_eq!(source.source.keys(2).expect("an answer").as_deref(), Some(b"keys".as_slice()));
    assert_eq!(source.source.keys(3).expect("an answer"), None);
    assert_eq!(source.source.keys(4).expect("an answer"), None);
    assert!(matches!(source.source.open_release("other"), Err(SourceError::NotFound(_))));
    assert_eq!(source.open_release().expect("a release"), b"envelope");
    assert_eq!(source.source.index(&index_blob).expect("an index"), bytes(3000));
    for (start, end) in [(0, 1), (100_000, 200_000), (199_999, 200_000), (0, 200_000), (7, 7)] {
        let (result, first, found) = source.chunks(&chunks_blob, start, end);
        assert_eq!(result.expect("a range"), Served::Range);
        assert!(found.is_empty() || first == start);
        assert_eq!(found, bytes(200_000)[start as usize..end as usize]);
    }
    let seen = server.seen();
    assert!(seen.iter().all(|seen| seen.connection == 0), "the connection is kept");
    assert!(seen.iter().all(|seen| seen.field("authorization").is_none()));
    let ranges: Vec<_> = seen.iter().filter_map(|seen| Some((seen.field("range")?, seen.field("if-range")))).collect();
    assert_eq!(ranges[..2], [("bytes=0-0", None), ("bytes=100000-199999", Some("\"one\""))]);
}

#[test]
fn a_server_without_ranges_gives_the_whole_blob() {
    let chunks = bytes(300_000);
    let declared = blob(&chunks);
    for chunked in [false, true] {
        let chunks = chunks.clone();
        let (server, mut source) = with_chunks(move |_, _| match chunked {
            false => Reply::new(200, "", &chunks),
            true => Reply::raw(
                [
                    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n493e0;x=y\r\n",
                    &chunks[..],
                    b"\r\n0\r\nA: b\r\n\r\n",
                ]
                .concat(),
                Then::Go,
            ),
        });
        for _ in 0..2 {
            let (result, first, found) = source.chunks(&declared, 1000, 2000);
            assert_eq!((result.expect("served"), first), (Served::Whole, 0));
            assert_eq!(found, bytes(300_000));
        }
        assert!(server.seen().iter().all(|seen| seen.connection == 0), "the connection is kept");
    }
}

#[test]
fn broken_ranges_are_resumed_and_bytes_come_once() {
    for then in [Then::Reset, Then::Close] {
        let chunks = bytes(400_000);
        let declared = blob(&chunks);
        let cuts = then.clone();
        let (server, mut source) = with_chunks(move |seen, asked| {
            let reply = file(seen, &chunks, "");
            let start = reply.body_start();
            if asked < 3 { reply.cut(start + 90_000, cuts.clone()) } else { reply }
        });
        let (result, first, found) = source.chunks(&declared, 10_000, 390_000);
        assert_eq!((result.expect("resumed"), first), (Served::Range, 10_000));
        assert_eq!(found, bytes(400_000)[10_000..390_000]);
        let ranges: Vec<_> = server.seen().iter().filter_map(Seen::range).collect();
        assert!(ranges.len() >= 4 && ranges.windows(2).all(|pair| pair[0].0 <= pair[1].0), "{then:?}: {ranges:?}");
        assert!(ranges.iter().all(|range| range.1 == 389_999));
    }
}

#[test]
fn a_broken_whole_blob_goes_on_where_it_was() {
    let chunks = bytes(300_000);
    let declared = blob(&chunks);
    let (_server, mut source) = with_chunks(move |_, asked| {
        let reply = Reply::new(200, "", &chunks);
        let start = reply.body_start();
        if asked == 0 { reply.cut(start + 100_000, Then::Close) } else { reply }
    });
    let (result, first, found) = source.chunks(&declared, 5000, 6000);
    assert_eq!((result.expect("served"), first), (Served::Whole, 0));
    assert_eq!(found, bytes(300_000));
}

#[test]
fn a_range_that_goes_on_as_a_whole_blob_stays_a_range() {
    let chunks = bytes(300_000);
    let declared = blob(&chunks);
    let (_server, mut source) = with_chunks(move |seen, asked| match asked {
        0 => {
            let reply = file(seen, &chunks, "");
            let start = reply.body_start();
            reply.cut(start + 70_000, Then::Close)
        }
        _ => Reply::new(200, "", &chunks),
    });
    let (result, first, found) = source.chunks(&declared, 50_000, 200_000);
    assert_eq!((result.expect("served"), first), (Served::Range, 50_000));
    assert_eq!(found, bytes(300_000)[50_000..200_000]);
}

#[test]
fn attempts_end_when_nothing_comes() {
    let (server, mut source) = with_chunks(|_, _| Reply::raw("", Then::Close));
    let (result, _, found) = source.chunks(&blob(&bytes(1000)), 0, 1000);
    assert!(matches!(result, Err(SourceError::Network { .. })), "{result:?}");
    assert!(found.is_empty());
    // The connection of the release may have been used for the first one.
    assert!((5..=6).contains(&server.seen().iter().filter(|seen| seen.target() == CHUNKS).count()));
    assert_eq!(source.clock.slept.get(), Duration::from_secs(1 + 2 + 4 + 8));
}

#[test]
fn wrong_ranges_are_refused_with_both_named() {
    for (fields, status) in [
        ("Content-Range: bytes 0-99/1000\r\n", 206),
        ("Content-Range: bytes 100-198/1000\r\n", 206),
        ("Content-Range: bytes 100-199/2000\r\n", 206),
        ("Content-Range: bytes 100-199\r\n", 206),
        ("Content-Range: items 100-199/1000\r\n", 206),
        ("Content-Type: multipart/byteranges; boundary=x\r\n", 206),
        ("Content-Range: bytes */50\r\n", 416),
        ("", 416),
    ] {
        let (_server, mut source) = with_chunks(move |_, _| Reply::new(status, fields, bytes(100)));
        let (result, _, found) = source.chunks(&blob(&bytes(1000)), 100, 200);
        let error = result.expect_err(fields);
        assert!(matches!(error, SourceError::WrongRange { .. }), "{fields}: {error}");
        let text = error.to_string();
        let answered = fields.trim().strip_prefix("Content-Range: ").unwrap_or("");
        assert!(text.contains("100-199/1000") && text.contains(answered), "{text}");
        assert!(found.is_empty());
    }
    // A right one without the size of the whole.
    let (_server, mut source) =
        with_chunks(|_, _| Reply::new(206, "Content-Range: bytes 100-199/*\r\n", &bytes(1000)[100..200]));
    assert_eq!(source.chunks(&blob(&bytes(1000)), 100, 200).2, bytes(1000)[100..200]);
    assert!(matches!(source.chunks(&blob(&bytes(1000)), 100, 1001).0, Err(SourceError::WrongRange { .. })));
}

#[test]
fn wrong_lengths_of_ranges_are_refused() {
    let declared = blob(&bytes(1000));
    let range = "Content-Range: bytes 100-199/1000\r\n";
    let (_server, mut source) = with_chunks(move |_, _| Reply::new(206, range, bytes(101)));
    let error = source.chunks(&declared, 100, 200).0;
    assert!(matches!(error, Err(SourceError::Size { expected: 100, found: 101, .. })), "{error:?}");
    let (_server, mut source) = with_chunks(move |_, _| Reply::new(200, "", bytes(1001)));
    let error = source.chunks(&declared, 100, 200).0;
    assert!(matches!(error, Err(SourceError::Size { expected: 1000, found: 1001, .. })), "{error:?}");
    // Not stated, and more than there may be.
    for (status, fields) in [(206, range), (200, "")] {
        let head = format!("HTTP/1.1 {status} X\r\n{fields}\r\n");
        let (_server, mut source) = with_chunks(move |_, _| Reply {
            bytes: head.clone().into_bytes(),
            then: Then::Repeat(bytes(1000), Duration::ZERO),
        });
        let (error, _, found) = source.chunks(&declared, 100, 200);
        assert!(matches!(error, Err(SourceError::Large { .. })), "{error:?}");
        assert_eq!(found.len(), if status == 206 { 100 } else { 1000 });
    }
}

#[test]
fn a_file_that_changes_is_noticed() {
    let (_server, mut source) = with_chunks(|seen, asked| file(seen, &bytes(1000), &format!("ETag: \"{asked}\"\r\n")));
    let declared = blob(&bytes(1000));
    source.chunks(&declared, 0, 100).0.expect("a range");
    let again = source.chunks(&declared, 100, 200).0;
    assert!(matches!(again, Err(SourceError::Changed { .. })), "{again:?}");
    // Weak tags do not count (RFC 9110, section 13.1.5).
    let (server, mut source) = with_chunks(|seen, asked| file(seen, &bytes(1000), &format!("ETag: W/\"{asked}\"\r\n")));
    source.chunks(&declared, 0, 100).0.expect("a range");
    source.chunks(&declared, 100, 200).0.expect("a range");
    assert!(server.seen().iter().all(|seen| seen.field("if-range").is_none()));
}

#[test]
fn a_receiver_that_has_had_enough_is_asked_no_more() {
    let (_server, mut source) = with_chunks(|seen, _| file(seen, &bytes(500_000), ""));
    let mut calls = 0;
    let result = source.source.chunks(&blob(&bytes(500_000)), Range { start: 0, end: 500_000 }, &mut |_, _| {
        calls += 1;
        Err(Stop)
    });
    assert!(matches!(result, Err(SourceError::Stopped)), "{result:?}");
    assert_eq!(calls, 1);
}

#[test]
fn wrong_index_is_refused() {
    let index = bytes(5000);
    let mut damaged = index.clone();
    damaged[4999] ^= 1;
    let declared = blob(&index);
    for (body, expected) in
        [(&damaged[..], "digest"), (&index[..4999], "4999 bytes instead of 5000"), (&bytes(5001), "5001")]
    {
        let body = body.to_vec();
        let server = Server::start(move |seen| match seen.target() {
            RELEASE => Reply::new(200, "", "envelope"),
            _ => Reply::new(200, "", &body),
        });
        let mut source = open_test(&settings(server.url("http", "os")));
        source.open_release().expect("a release");
        let error = source.source.index(&declared).expect_err("refused").to_string();
        assert!(error.contains(expected), "{error}");
    }
    let (_server, mut source) = with_chunks(|_, _| Reply::new(404, "", ""));
    let huge = Blob { size: u64::MAX, sha256: Digest::of(b"") };
    assert!(matches!(source.source.index(&huge), Err(SourceError::Large { .. })));
}

#[test]
fn pages_for_people_are_no_documents() {
    let page = Reply::new(200, "Content-Type: text/html; charset=utf-8\r\n", "<html>log in</html>");
    assert!(refused(page.clone()).contains("HTML"));
    let (_server, mut source) = with_chunks(move |_, _| page.clone());
    let error = source.chunks(&blob(&bytes(1000)), 0, 100).0;
    assert!(matches!(error, Err(SourceError::Html(_))), "{error:?}");
}

#[test]
fn endless_bodies_end() {
    let endless = |head: &str, bytes: &[u8]| Reply::raw(head, Then::Repeat(bytes.to_vec(), Duration::ZERO));
    let until_close = endless("HTTP/1.1 200 OK\r\n\r\n", &[b'x'; 4096]);
    let limit = format!("more than {} bytes", ksos_formats::update::ENVELOPE_LIMIT);
    assert!(refused(until_close).contains(&limit));
    let chunk = [b"1000\r\n".as_slice(), &[b'x'; 4096], b"\r\n"].concat();
    assert!(refused(endless("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", &chunk)).contains(&limit));
    assert!(refused(Reply::raw("HTTP/1.1 200 OK\r\nContent-Length: 99999999999\r\n\r\n", Then::Hang)).contains(&limit));
    assert!(refused(endless("HTTP/1.1 200 OK\r\n", b"A: bbbbbbbbbbbbbbbb\r\n")).contains("not a valid answer"));
    assert!(refused(endless("", b"HTTP/1.1 100 Continue\r\n\r\n")).contains("not a valid answer"));
    let trailer = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n";
    assert!(refused(endless(trailer, b"A: bbbbbbbbbbbbbbbb\r\n")).contains("trailer"));
    let line = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
    assert!(refused(endless(line, b"0000")).contains("too long"));
}

#[test]
fn slow_bodies_end() {
    let slow = |head: &str| Reply::raw(head, Then::Repeat(b"x".to_vec(), Duration::from_millis(5)));
    for head in ["HTTP/1.1 200 OK\r\nContent-Length: 900000\r\n\r\n", "HTTP/1.1 200 OK\r\nA: "] {
        let (_server, mut source) = always(slow(head));
        // To the client each wait seems to take ten seconds.
        source.clock.step.set(Duration::from_secs(10));
        let error = source.channel().expect_err("too slow");
        assert!(matches!(error, SourceError::Slow { seconds: 60.., .. }), "{error}");
    }
}

#[test]
fn silent_servers_are_left() {
    for head in ["", "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nabc"] {
        let server = Server::start(move |_| Reply::raw(head, Then::Hang));
        let limits = Limits { idle: Duration::from_millis(200), attempts: 2, ..limits() };
        let mut source = open_on(&settings(server.url("http", "os")), &Double::new(), limits).expect("a source");
        let error = source.channel().expect_err("silent");
        assert!(error.to_string().contains("no byte for"), "{error}");
        assert_eq!(server.seen().len(), 2);
    }
}

#[test]
fn truncated_documents_are_tried_again() {
    let asked = AtomicUsize::new(0);
    let server = Server::start(move |_| {
        let reply = Reply::new(200, "", "envelope");
        match asked.fetch_add(1, Ordering::SeqCst) {
            0 => reply.clone().cut(reply.body_start() + 4, Then::Close),
            1 => Reply::raw("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nen", Then::Close),
            2 => reply.cut(20, Then::Close),
            _ => reply,
        }
    });
    let mut source = open_test(&settings(server.url("http", "os")));
    assert_eq!(source.channel().expect("a channel"), b"envelope");
    let (_server, mut source) = always(Reply::new(200, "", "envelope").cut(40, Then::Close));
    let error = source.channel().expect_err("always truncated");
    assert!(matches!(error, SourceError::Truncated { expected: 8, .. }), "{error}");
}

#[test]
fn servers_that_are_busy_are_asked_again() {
    for (status, field, slept) in
        [(500, "", 1 + 2), (429, "Retry-After: 7\r\n", 7 + 7), (503, "Retry-After: 999\r\n", 60 + 60)]
    {
        let asked = AtomicUsize::new(0);
        let server = Server::start(move |_| match asked.fetch_add(1, Ordering::SeqCst) {
            0 | 1 => Reply::new(status, field, "busy"),
            _ => Reply::new(200, "", "envelope"),
        });
        let mut source = open_test(&settings(server.url("http", "os")));
        assert_eq!(source.channel().expect("a channel"), b"envelope");
        assert_eq!(source.clock.slept.get(), Duration::from_secs(slept), "{status}");
    }
    let (server, mut source) = always(Reply::new(503, "", ""));
    assert!(matches!(source.channel(), Err(SourceError::Status { status: 503, .. })));
    assert_eq!(server.seen().len(), 5);
    let (server, mut source) = always(Reply::new(400, "", ""));
    assert!(matches!(source.channel(), Err(SourceError::Status { status: 400, .. })));
    assert_eq!(server.seen().len(), 1, "what will not heal is not tried again");
}

#[test]
fn what_is_not_http_is_refused() {
    for text in [
        "SSH-2.0-OpenSSH\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 5\r\n\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n-1\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nfffffffffffffffff\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nabc\r\n0\r\n\r\n",
        "HTTP/1.1 101 Switching\r\n\r\n",
    ] {
        let error = refused(Reply::raw(text, Then::Hang));
        assert!(error.contains("not a valid answer"), "{text:?}: {error}");
    }
    // Informational answers come before the real one.
    let hints = "HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nab";
    assert_eq!(always(Reply::raw(hints, Then::Go)).1.channel().expect("a channel"), b"ab");
}

#[test]
fn connections_that_were_closed_meanwhile_are_opened_anew() {
    let server = Server::start(|_| Reply { then: Then::Close, ..Reply::new(200, "", "envelope") });
    let mut source = open_test(&settings(server.url("http", "os")));
    for _ in 0..3 {
        assert_eq!(source.channel().expect("a channel"), b"envelope");
    }
    assert_eq!(source.clock.slept.get(), Duration::ZERO, "that is no failure");
}

#[test]
fn redirects_are_followed_up_to_five() {
    let server = Server::start(|seen| match seen.target().strip_prefix("/loop/") {
        Some("5?x") => Reply::new(200, "", "there"),
        Some(number) => {
            let next = number.trim_end_matches("?x").parse::<u32>().expect("a number") + 1;
            Reply::new(302, &format!("Location: /loop/{next}?x#y\r\n"), "")
        }
        None => Reply::new(301, "Location: /loop/0\r\n", "moved"),
    });
    let mut source = open_test(&settings(server.url("http", "os")));
    let error = source.channel().expect_err("six redirects");
    assert!(matches!(error, SourceError::Redirect { reason: "more than 5 in a row", .. }), "{error}");
    assert_eq!(server.seen().len(), 6);
    for (location, expected) in [
        ("", "where to"),
        ("Location: file:///etc/passwd\r\n", "neither http"),
        ("Location: http://u:p@h/\r\n", "user names"),
    ] {
        assert!(refused(Reply::new(302, location, "")).contains(expected));
    }
}

#[test]
fn credentials_stay_with_the_server_they_are_for() {
    let other = Server::start(|_| Reply::new(200, "", "envelope"));
    let location = format!("Location: {}\r\n", other.url("http", "elsewhere?signature=secret"));
    let server = Server::start(move |seen| match seen.target() {
        "/os/channels/stable/edge-arm64.json" => Reply::new(307, "Location: /same\r\n", ""),
        _ => Reply::new(307, &location, ""),
    });
    for (username, expected) in
        [(Some("Aladdin".to_owned()), "Basic QWxhZGRpbjpvcGVuc2VzYW1l"), (None, "Bearer opensesame")]
    {
        let password = Some("opensesame".to_owned());
        let settings = SourceSettings { username, password, ..settings(server.url("http", "os")) };
        assert_eq!(open_test(&settings).channel().expect("a channel"), b"envelope");
        let seen = server.seen();
        let sent: Vec<_> = seen.iter().rev().take(2).map(|seen| seen.field("authorization")).collect();
        assert_eq!(sent, [Some(expected), Some(expected)]);
    }
    let seen = other.seen();
    assert_eq!(seen.len(), 2);
    assert!(seen.iter().all(|seen| seen.field("authorization").is_none()), "{seen:?}");
}

#[test]
fn who_is_not_let_in_is_told_with_what() {
    let (_server, mut source) = always(Reply::new(401, "WWW-Authenticate: Basic\r\n", ""));
    assert!(source.channel().expect_err("401").to_string().ends_with("(status 401): without credentials"));
    let server = Server::start(|_| Reply::new(403, "", ""));
    let settings = SourceSettings { username: Some("u".to_owned()), ..settings(server.url("http", "os")) };
    assert!(open_test(&settings).channel().expect_err("403").to_string().ends_with("with user name and password"));
}

#[test]
fn proxies_are_asked_for_the_whole_url() {
    let proxy = Server::start(|seen| match seen.field("proxy-authorization") {
        Some("Basic dXNlcjpwdw==") => Reply::new(200, "", seen.target()),
        _ => Reply::new(407, "", ""),
    });
    let with = |proxy: String| {
        open_test(&SourceSettings { proxy: Some(proxy), ..settings("http://updates.invalid:8080/os".to_owned()) })
    };
    let mut source = with(format!("http://user:pw@127.0.0.1:{}", proxy.port));
    let url = source.channel().expect("through the proxy");
    assert_eq!(url, b"http://updates.invalid:8080/os/channels/stable/edge-arm64.json");
    assert_eq!(proxy.seen()[0].field("host"), Some("updates.invalid:8080"));
    let error = with(format!("http://127.0.0.1:{}", proxy.port)).channel().expect_err("no password");
    assert!(matches!(error, SourceError::NotAllowed { status: 407, .. }), "{error}");
}

#[test]
fn bandwidth_is_limited() {
    let server = Server::start(|_| Reply::new(200, "", bytes(100_000)));
    let settings = SourceSettings { bandwidth: Some(10_000), ..settings(server.url("http", "os")) };
    let mut source = open_test(&settings);
    source.channel().expect("a channel");
    // The last part may be on its way without having been waited for; the first second is saved up.
    let slept = source.clock.slept.get().as_secs();
    assert!((7..=10).contains(&slept), "{slept} s for 100,000 bytes at 10,000 per second");
}

#[test]
fn nobody_there_is_an_error_of_the_network() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = listener.local_addr().expect("an address").port();
    drop(listener);
    let error = open_test(&settings(format!("http://127.0.0.1:{port}/os"))).channel().expect_err("nobody");
    assert!(matches!(error, SourceError::Network { .. }) && error.to_string().contains("refused"), "{error}");
}
