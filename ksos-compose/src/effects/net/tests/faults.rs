//! Faulty servers, mirrors, redirects, proxies and batches.

use std::io::Write;
use std::num::NonZero;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use super::server::{Server, reply};
use super::*;
use crate::effects::net::{Fetch, ProxyVariables, fetch_all};

fn good(data: &[u8]) -> Server {
    let data = data.to_vec();
    Server::start(move |_, stream| reply(stream, 200, &[], &data))
}

#[test]
fn a_cached_blob_needs_no_request() {
    let fixture = Fixture::new(NetOptions { offline: true, ..quick() });
    let blob = fixture.cache.insert(b"hello").unwrap();
    let urls = ["http://127.0.0.1:1/x".to_owned()];
    assert_eq!(fixture.downloader.blob(&request(&urls, b"hello")).unwrap(), blob);
    let error = fixture.downloader.blob(&request(&urls, b"other")).unwrap_err();
    assert!(matches!(error, FetchError::Offline { .. }), "{error}");
    let error = fixture.downloader.document(&request(&urls, b"hello")).unwrap_err();
    assert!(matches!(error, FetchError::Offline { .. }), "{error}");
}

#[test]
fn a_wrong_digest_names_both_and_the_next_mirror_is_taken() {
    let data = body(5000);
    let mut wrong = data.clone();
    wrong[100] ^= 1;
    let (bad, fine) = (good(&wrong), good(&data));
    let fixture = Fixture::new(quick());
    let error = fixture.downloader.blob(&request(&[bad.url("/x")], &data)).unwrap_err();
    let expected = format!("has SHA-256 {}, expected {}", Digest::of(&wrong), Digest::of(&data));
    assert_eq!(cause(&error), expected);
    assert_eq!(fixture.partials(), Vec::<String>::new());
    let blob = fixture.downloader.blob(&request(&[bad.url("/x"), fine.url("/x")], &data)).unwrap();
    assert_eq!(content(&blob.path), data);
}

#[test]
fn a_web_page_instead_of_the_file_is_named() {
    let page = b"<html>log in to the hotel network</html>";
    let server = Server::start(move |_, stream| reply(stream, 200, &["Content-Type: text/html; charset=utf-8"], page));
    let fixture = Fixture::new(quick());
    let urls = [server.url("/x.tar.gz")];
    let known_size = request(&urls, b"data");
    let known_digest = Request { size: None, ..known_size.clone() };
    let nothing_known = Request { digest: None, ..known_digest.clone() };
    for request in [known_size, known_digest, nothing_known.clone()] {
        let error = fixture.downloader.blob(&request).unwrap_err();
        assert!(cause(&error).contains("web page (text/html)"), "{error}");
    }
    assert!(cause(&fixture.downloader.document(&nothing_known).unwrap_err()).contains("web page (text/html)"));
}

#[test]
fn a_truncated_body_is_never_a_blob() {
    let data = body(50_000);
    for headers in [&["Content-Length: 50000"][..], &["Transfer-Encoding: identity"][..]] {
        let server = Server::start({
            let data = data.clone();
            move |_, stream| reply(stream, 200, headers, &data[..30_000])
        });
        let fixture = Fixture::new(NetOptions { retries: 0, ..quick() });
        let urls = [server.url("/x")];
        let error = fixture.downloader.blob(&request(&urls, &data)).unwrap_err();
        let text = cause(&error);
        assert!(text.contains("after 30000 bytes") || text.contains("truncated: 30000 bytes of 50000"), "{text}");
        let error = fixture.downloader.document(&request(&urls, &data)).unwrap_err();
        assert!(cause(&error).contains("30000 bytes"), "{error}");
    }
}

#[test]
fn an_endless_body_stops_at_the_limit() {
    let server = Server::start(|_, stream| {
        reply(stream, 200, &["Transfer-Encoding: chunked"], b"");
        while stream.write_all(b"1000\r\n").and_then(|()| stream.write_all(&[b'x'; 4096])).is_ok()
            && stream.write_all(b"\r\n").is_ok()
        {}
    });
    let fixture = Fixture::new(quick());
    let urls = [server.url("/x")];
    let endless = Request { name: "component x", urls: &urls, digest: None, size: None, limit: 100_000 };
    assert_eq!(cause(&fixture.downloader.blob(&endless).unwrap_err()), "larger than the limit of 100000 bytes");
    assert_eq!(cause(&fixture.downloader.document(&endless).unwrap_err()), "larger than the limit of 100000 bytes");
    let sized = Request { size: Some(5000), digest: Some(Digest::of(b"")), ..endless };
    assert_eq!(cause(&fixture.downloader.blob(&sized).unwrap_err()), "is longer than the expected 5000 bytes");
    assert_eq!(fixture.partials(), Vec::<String>::new());
}

#[test]
fn a_declared_size_over_the_limit_or_not_the_known_one_is_refused_before_the_body() {
    let server = Server::start(|_, stream| reply(stream, 200, &["Content-Length: 99999999999"], b"x"));
    let fixture = Fixture::new(quick());
    let urls = [server.url("/x")];
    let huge = Request { name: "component x", urls: &urls, digest: None, size: None, limit: 100_000 };
    assert_eq!(cause(&fixture.downloader.blob(&huge).unwrap_err()), "larger than the limit of 100000 bytes");
    let error = fixture.downloader.blob(&request(&urls, b"data")).unwrap_err();
    assert_eq!(cause(&error), "has 99999999999 bytes, expected 4");
}

#[test]
fn a_stalled_body_is_given_up_and_taken_up_again() {
    let data = body(100_000);
    let server = Server::start({
        let data = data.clone();
        move |request, stream| match request.number {
            0 => {
                reply(stream, 200, &["Content-Length: 100000"], &data[..40_000]);
                std::thread::sleep(Duration::from_secs(20));
            }
            _ => super::server::serve_ranges(request, stream, &data),
        }
    });
    let fixture = Fixture::new(NetOptions { stall_timeout: Duration::from_millis(300), ..quick() });
    let started = Instant::now();
    let blob = fixture.downloader.blob(&request(&[server.url("/x")], &data)).unwrap();
    assert_eq!(content(&blob.path), data);
    assert!(started.elapsed() < Duration::from_secs(15), "{:?}", started.elapsed());
    assert_eq!(server.seen()[1].range(), Some(40_000));
}

#[test]
fn a_slow_body_that_keeps_coming_is_no_stall() {
    let data = body(800);
    let server = Server::start({
        let data = data.clone();
        move |_, stream| {
            reply(stream, 200, &["Content-Length: 800"], b"");
            for piece in data.chunks(100) {
                std::thread::sleep(Duration::from_millis(200));
                stream.write_all(piece).unwrap();
            }
        }
    });
    let fixture = Fixture::new(NetOptions { stall_timeout: Duration::from_secs(1), ..quick() });
    fixture.downloader.blob(&request(&[server.url("/x")], &data)).unwrap();
    assert_eq!(server.seen().len(), 1);
}

#[test]
fn busy_servers_are_asked_again_and_missing_files_are_not() {
    let data = body(500);
    for (status, requests) in [(500, 2), (503, 2), (408, 2), (429, 2), (403, 1), (404, 1), (410, 1), (401, 1)] {
        let server = Server::start({
            let data = data.clone();
            move |request, stream| match request.number {
                0 => reply(stream, status, &[], b"no"),
                _ => reply(stream, 200, &[], &data),
            }
        });
        let fixture = Fixture::new(quick());
        let result = fixture.downloader.blob(&request(&[server.url("/x")], &data));
        assert_eq!(result.is_ok(), requests == 2, "{status}: {result:?}");
        assert_eq!(server.seen().len(), requests, "{status}");
        let gone = matches!(&result, Err(FetchError::NotFound { urls, .. }) if urls == &[server.url("/x")]);
        assert_eq!(gone, status == 404 || status == 410, "{status}: {result:?}");
    }
}

#[test]
fn retry_after_is_honoured_within_its_bound() {
    let data = body(500);
    let server = Server::start({
        let data = data.clone();
        move |request, stream| match request.number {
            0 => reply(stream, 429, &["Retry-After: 1"], b""),
            1 => reply(stream, 200, &[], &data),
            _ => reply(stream, 429, &["Retry-After: 86400"], b""),
        }
    });
    let fixture = Fixture::new(quick());
    let urls = [server.url("/x")];
    let started = Instant::now();
    fixture.downloader.blob(&request(&urls, &data)).unwrap();
    assert!(started.elapsed() >= Duration::from_secs(1));
    let error = fixture.downloader.blob(&request(&urls, b"other")).unwrap_err();
    assert_eq!(cause(&error), "the server answered with status 429 and asks to wait 86400 s");
}

#[test]
fn a_dead_mirror_is_tried_last_afterwards() {
    let data = body(500);
    let server = good(&data);
    // Nobody listens on tcpmux.
    let dead = "http://127.0.0.1:1/x".to_owned();
    let fixture = Fixture::new(quick());
    let urls = [dead, server.url("/x")];
    fixture.downloader.blob(&request(&urls, &data)).unwrap();
    let order = fixture.downloader.order_for_tests(&urls);
    assert_eq!(order, [urls[1].clone(), urls[0].clone()]);
    let error = fixture.downloader.blob(&request(&urls[..1], b"other")).unwrap_err();
    assert!(cause(&error).starts_with("cannot connect: "), "{error}");
}

#[test]
fn redirects_are_followed_to_a_limit() {
    let data = body(500);
    let server = Server::start({
        let data = data.clone();
        move |request, stream| match request.target() {
            "/1" => reply(stream, 301, &["Location: /2"], b"moved"),
            "/2" => reply(stream, 302, &["Location: 3"], b""),
            "/3" => reply(stream, 303, &["Location: ?4"], b""),
            "/3?4" => reply(stream, 307, &["Location: /5"], b""),
            "/5" => reply(stream, 308, &["Location: /end"], b""),
            "/end" => reply(stream, 200, &[], &data),
            "/nowhere" => reply(stream, 302, &[], b""),
            "/file" => reply(stream, 302, &["Location: file:///etc/passwd"], b""),
            _ => reply(stream, 302, &["Location: /loop"], b""),
        }
    });
    let fixture = Fixture::new(quick());
    let fetch = |path: &str, data: &[u8]| fixture.downloader.blob(&request(&[server.url(path)], data));
    fetch("/1", &data).unwrap();
    assert_eq!(cause(&fetch("/loop", b"x").unwrap_err()), "more than 5 redirects");
    assert_eq!(cause(&fetch("/nowhere", b"x").unwrap_err()), "a redirect (status 302) without a location");
    assert!(cause(&fetch("/file", b"x").unwrap_err()).contains("file:///etc/passwd is not a usable URL"));
}

#[test]
fn credentials_reach_neither_another_host_nor_a_message() {
    let data = body(500);
    let other = Server::start({
        let data = data.clone();
        move |request, stream| match request.target() {
            "/gone" => reply(stream, 404, &[], b""),
            _ => reply(stream, 200, &[], &data),
        }
    });
    let elsewhere = other.url("/x");
    let server = Server::start(move |request, stream| match request.target() {
        "/1" => reply(stream, 302, &["Location: /2"], b""),
        "/2" => reply(stream, 302, &[&format!("Location: {elsewhere}")], b""),
        _ => reply(stream, 404, &[], b""),
    });
    let fixture = Fixture::new(quick());
    let with_secret = |path: &str| [server.url(path).replace("http://", "http://user:secret@")];
    fixture.downloader.blob(&request(&with_secret("/1"), &data)).unwrap();
    let sent = |seen: &[super::server::Seen]| {
        seen.iter().map(|seen| seen.headers.contains_key("authorization")).collect::<Vec<_>>()
    };
    assert_eq!(sent(&server.seen()), [true, true]);
    assert_eq!(server.seen()[0].header("authorization"), Some("Basic dXNlcjpzZWNyZXQ="));
    assert_eq!(sent(&other.seen()), [false]);
    let error = fixture.downloader.blob(&request(&with_secret("/gone"), b"x")).unwrap_err();
    assert!(!error.to_string().contains("secret"), "{error}");
    assert!(!format!("{error:?}").contains("secret"), "{error:?}");
}

#[test]
fn an_http_url_is_asked_of_the_proxy_in_absolute_form() {
    let data = body(500);
    let proxy = good(&data);
    let address = proxy.address();
    let variables = ProxyVariables { http: Some(format!("http://me:pass@{address}")), ..ProxyVariables::default() };
    let fixture = Fixture::new(NetOptions { proxy: variables, ..quick() });
    let urls = ["http://mirror.invalid:81/debian/x?y".to_owned()];
    fixture.downloader.blob(&request(&urls, &data)).unwrap();
    let seen = &proxy.seen()[0];
    assert_eq!(seen.target(), urls[0]);
    assert_eq!(seen.header("host"), Some("mirror.invalid:81"));
    assert_eq!(seen.header("proxy-authorization"), Some("Basic bWU6cGFzcw=="));
    assert_eq!(seen.header("authorization"), None);
}

#[test]
fn an_https_url_is_tunnelled_and_no_proxy_is_direct() {
    let data = body(500);
    let proxy = Server::start(|_, stream| reply(stream, 403, &[], b"no"));
    let server = good(&data);
    let address = Some(proxy.address().to_string());
    let variables = ProxyVariables { all: address, none: Some("127.0.0.1".into()), ..ProxyVariables::default() };
    let fixture = Fixture::new(NetOptions { proxy: variables, retries: 0, ..quick() });
    fixture.downloader.blob(&request(&[server.url("/x")], &data)).unwrap();
    assert_eq!(proxy.seen().len(), 0);
    let error = fixture.downloader.blob(&request(&["https://mirror.invalid/x".to_owned()], b"x")).unwrap_err();
    assert!(cause(&error).contains("proxy server responded 403"), "{error}");
    assert_eq!(proxy.seen()[0].line, "CONNECT mirror.invalid:443 HTTP/1.1");
}

#[test]
fn no_content_coding_is_asked_for_or_undone() {
    let data = body(500);
    let server = Server::start({
        let data = data.clone();
        // Some servers mark every .gz file as a coding of its content.
        move |_, stream| reply(stream, 200, &["Content-Encoding: gzip", "Content-Type: application/x-tar"], &data)
    });
    let fixture = Fixture::new(quick());
    fixture.downloader.blob(&request(&[server.url("/x.tar.gz")], &data)).unwrap();
    assert_eq!(server.seen()[0].header("accept-encoding"), Some("identity"));
}

#[test]
fn documents_come_whole_and_anew() {
    let server = good(b"Suite: trixie\n");
    let fixture = Fixture::new(quick());
    let urls = [server.url("/InRelease")];
    let document = Request { name: "index", urls: &urls, digest: None, size: None, limit: 100 };
    for _ in 0..2 {
        assert_eq!(fixture.downloader.document(&document).unwrap(), b"Suite: trixie\n");
    }
    assert_eq!(server.seen().len(), 2);
    let wrong = Request { digest: Some(Digest::of(b"x")), ..document };
    assert!(cause(&fixture.downloader.document(&wrong).unwrap_err()).starts_with("has SHA-256"));
}

#[test]
fn a_batch_runs_side_by_side_and_stops_after_a_failure() {
    let bodies: Vec<_> = (1..=20).map(body).collect();
    let (running, peak) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let server = Server::start({
        let (bodies, peak) = (bodies.clone(), peak.clone());
        move |request, stream| {
            peak.fetch_max(running.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
            std::thread::sleep(Duration::from_millis(50));
            running.fetch_sub(1, Ordering::SeqCst);
            let number: usize = request.target()[1..].parse().unwrap();
            reply(stream, 200, &[], &bodies[number]);
        }
    });
    let fixture = Fixture::new(quick());
    let urls: Vec<_> = (0..20).map(|number| [server.url(&format!("/{number}"))]).collect();
    let requests: Vec<_> = urls.iter().zip(&bodies).map(|(urls, body)| request(urls, body)).collect();
    let jobs = NonZero::new(10).unwrap();
    let blobs = fetch_all(&fixture.downloader, &requests, jobs).unwrap();
    assert!((2..=10).contains(&peak.load(Ordering::SeqCst)));
    assert!(blobs.iter().zip(&bodies).all(|(blob, body)| blob.digest == Digest::of(body)));

    let mut broken: Vec<_> =
        requests.iter().map(|request| Request { digest: Some(Digest::of(b"?")), ..request.clone() }).collect();
    broken.truncate(8);
    let errors = fetch_all(&fixture.downloader, &broken, NonZero::<usize>::MIN).unwrap_err();
    assert_eq!((errors.failures.len(), errors.cancelled), (1, 7));
}
