//! Interrupted downloads.

use std::io::Write;
use std::sync::atomic::{AtomicBool, Ordering};

use super::server::{Server, reply, serve_ranges};
use super::*;
use crate::effects::net::Fetch;

/// Puts `bytes` where an interrupted download of `whole` would have left them.
fn interrupt(fixture: &Fixture, whole: &[u8], bytes: &[u8]) {
    let path = fixture.cache.bucket("partial").join(Digest::of(whole).hex());
    crate::effects::fs::write_atomic(&path, bytes).unwrap();
}

#[test]
fn a_broken_connection_is_resumed_by_range_with_the_validator() {
    let data = body(300_000);
    let server = Server::start({
        let data = data.clone();
        move |request, stream| match request.number {
            0 => reply(stream, 200, &["ETag: \"one\"", "Content-Length: 300000"], &data[..100_000]),
            _ => serve_ranges(request, stream, &data),
        }
    });
    let fixture = Fixture::new(quick());
    let blob = fixture.downloader.blob(&request(&[server.url("/x")], &data)).unwrap();
    assert_eq!(content(&blob.path), data);
    let seen = server.seen();
    assert_eq!(seen.len(), 2);
    assert_eq!((seen[1].range(), seen[1].header("if-range")), (Some(100_000), Some("\"one\"")));
    assert_eq!(fixture.partials(), Vec::<String>::new());
}

#[test]
fn a_killed_download_is_resumed_by_the_next_process() {
    let data = body(200_000);
    let server = Server::start({
        let data = data.clone();
        move |request, stream| serve_ranges(request, stream, &data)
    });
    let fixture = Fixture::new(quick());
    interrupt(&fixture, &data, &data[..150_000]);
    let blob = fixture.downloader.blob(&request(&[server.url("/x")], &data)).unwrap();
    assert_eq!(content(&blob.path), data);
    assert_eq!(server.seen()[0].range(), Some(150_000));
}

#[test]
fn a_cancelled_download_keeps_what_came() {
    let data = body(1 << 20);
    let cancel = Arc::new(AtomicBool::new(false));
    let server = Server::start({
        let (data, cancel) = (data.clone(), cancel.clone());
        move |request, stream| match request.number {
            0 => {
                reply(stream, 200, &["Content-Length: 1048576"], &data[..500_000]);
                std::thread::sleep(Duration::from_millis(100));
                cancel.store(true, Ordering::SeqCst);
                let _ = stream.write_all(&data[500_000..500_001]);
                std::thread::sleep(Duration::from_millis(200));
            }
            _ => serve_ranges(request, stream, &data),
        }
    });
    let fixture = Fixture::new(quick());
    let urls = [server.url("/x")];
    let error = fixture.downloader.blob_unless(&request(&urls, &data), &cancel).unwrap_err();
    assert!(matches!(error, FetchError::Cancelled { .. }), "{error}");
    fixture.downloader.blob(&request(&urls, &data)).unwrap();
    assert!(server.seen()[1].range().unwrap() > 0);
}

#[test]
fn a_200_to_a_range_request_starts_again_at_zero() {
    let data = body(100_000);
    let server = Server::start({
        let data = data.clone();
        move |_, stream| reply(stream, 200, &[], &data)
    });
    let fixture = Fixture::new(quick());
    interrupt(&fixture, &data, &data[..60_000]);
    let blob = fixture.downloader.blob(&request(&[server.url("/x")], &data)).unwrap();
    assert_eq!(content(&blob.path), data);
    let ranges: Vec<_> = server.seen().iter().map(|seen| seen.range()).collect();
    assert_eq!(ranges, [Some(60_000)]);
}

#[test]
fn a_wrong_or_missing_content_range_starts_again_at_zero() {
    let data = body(100_000);
    for header in [
        "Content-Range: bytes 0-99999/100000",
        "Content-Range: bytes 60001-99999/100000",
        "Content-Range: bytes 60000-99999/100001",
        "Content-Range: bytes 60000-70000/65000",
        "Content-Range: lines 1-2/3",
        "X-Nothing: x",
    ] {
        let server = Server::start({
            let data = data.clone();
            move |request, stream| match request.range() {
                Some(_) => reply(stream, 206, &[header], &data[60_000..]),
                None => reply(stream, 200, &[], &data),
            }
        });
        let fixture = Fixture::new(quick());
        interrupt(&fixture, &data, &data[..60_000]);
        let blob = fixture.downloader.blob(&request(&[server.url("/x")], &data)).unwrap();
        assert_eq!(content(&blob.path), data);
        let ranges: Vec<_> = server.seen().iter().map(|seen| seen.range()).collect();
        assert_eq!(ranges, [Some(60_000), None], "{header}");
    }
}

#[test]
fn a_416_starts_again_at_zero() {
    let data = body(100_000);
    let server = Server::start({
        let data = data.clone();
        move |request, stream| match request.range() {
            Some(_) => reply(stream, 416, &["Content-Range: bytes */50000"], b""),
            None => reply(stream, 200, &[], &data),
        }
    });
    let fixture = Fixture::new(quick());
    interrupt(&fixture, &data, &data[..60_000]);
    let blob = fixture.downloader.blob(&request(&[server.url("/x")], &data)).unwrap();
    assert_eq!(content(&blob.path), data);
}

#[test]
fn a_damaged_partial_is_found_by_the_digest_and_fetched_again_from_the_same_place() {
    let data = body(100_000);
    let server = Server::start({
        let data = data.clone();
        move |request, stream| serve_ranges(request, stream, &data)
    });
    let fixture = Fixture::new(quick());
    interrupt(&fixture, &data, &[0; 60_000]);
    let blob = fixture.downloader.blob(&request(&[server.url("/x")], &data)).unwrap();
    assert_eq!(content(&blob.path), data);
    let ranges: Vec<_> = server.seen().iter().map(|seen| seen.range()).collect();
    assert_eq!(ranges, [Some(60_000), None]);
}

#[test]
fn a_partial_that_is_complete_or_too_long_needs_no_range() {
    let data = body(50_000);
    let server = Server::start({
        let data = data.clone();
        move |request, stream| serve_ranges(request, stream, &data)
    });
    let fixture = Fixture::new(quick());
    let urls = [server.url("/x")];
    interrupt(&fixture, &data, &data);
    fixture.downloader.blob(&request(&urls, &data)).unwrap();
    assert_eq!(server.seen().len(), 0);

    let fixture = Fixture::new(quick());
    interrupt(&fixture, &data, &[7; 60_000]);
    fixture.downloader.blob(&request(&urls, &data)).unwrap();
    assert_eq!(server.seen()[0].range(), None);
}

#[test]
fn without_a_digest_only_a_validated_partial_is_resumed() {
    let data = body(100_000);
    for (etag, resumed) in [("ETag: \"one\"", true), ("ETag: W/\"one\"", false), ("X-Nothing: x", false)] {
        let server = Server::start({
            let data = data.clone();
            move |request, stream| match request.number {
                0 => reply(stream, 200, &[etag, "Content-Length: 100000"], &data[..70_000]),
                _ => serve_ranges(request, stream, &data),
            }
        });
        let fixture = Fixture::new(quick());
        let urls = [server.url("/x")];
        let first_use = Request { name: "component x", urls: &urls, digest: None, size: None, limit: 1 << 20 };
        let blob = fixture.downloader.blob(&first_use).unwrap();
        assert_eq!(blob.digest, Digest::of(&data));
        assert_eq!(server.seen()[1].range().is_some(), resumed, "{etag}");
    }
}

#[test]
fn last_modified_is_a_validator_only_when_it_is_old_enough() {
    let data = body(1000);
    for (date, resumed) in [("Sun, 06 Nov 1994 08:51:00 GMT", true), ("Sun, 06 Nov 1994 08:49:38 GMT", false)] {
        let server = Server::start({
            let data = data.clone();
            move |request, stream| {
                let date = format!("Date: {date}");
                let modified = "Last-Modified: Sun, 06 Nov 1994 08:49:37 GMT";
                match request.number {
                    0 => reply(stream, 200, &[&date, modified, "Content-Length: 1000"], &data[..500]),
                    _ => serve_ranges(request, stream, &data),
                }
            }
        });
        let fixture = Fixture::new(quick());
        let urls = [server.url("/x")];
        let first_use = Request { name: "component x", urls: &urls, digest: None, size: None, limit: 1 << 20 };
        fixture.downloader.blob(&first_use).unwrap();
        let expected = resumed.then_some("Sun, 06 Nov 1994 08:49:37 GMT");
        assert_eq!(server.seen()[1].header("if-range"), expected);
    }
}

#[test]
fn a_long_file_over_a_bad_line_arrives_in_more_pieces_than_there_are_retries() {
    let data = body(9 << 20);
    let piece = (3 << 20) / 2;
    let server = Server::start({
        let data = data.clone();
        move |request, stream| {
            let from = request.range().unwrap_or(0);
            let to = data.len().min(from + piece);
            let length = format!("Content-Length: {}", data.len() - from);
            let range = format!("Content-Range: bytes {from}-{}/{}", data.len() - 1, data.len());
            reply(stream, if from > 0 { 206 } else { 200 }, &[&length, &range], &data[from..to]);
        }
    });
    let fixture = Fixture::new(NetOptions { retries: 1, ..quick() });
    let blob = fixture.downloader.blob(&request(&[server.url("/x")], &data)).unwrap();
    assert_eq!(blob.digest, Digest::of(&data));
    assert_eq!(server.seen().len(), 6);
}

#[test]
fn two_threads_that_want_the_same_file_make_one_request() {
    let data = body(400_000);
    let server = Server::start({
        let data = data.clone();
        move |_, stream| {
            std::thread::sleep(Duration::from_millis(100));
            reply(stream, 200, &[], &data);
        }
    });
    let fixture = Fixture::new(quick());
    // A second process has its own downloader and cache handle.
    let cache = Arc::new(Cache::open(fixture.directory.path()).unwrap());
    let other = Downloader::new(cache, quick(), Arc::new(Silent));
    let urls = [server.url("/x")];
    std::thread::scope(|scope| {
        let one = scope.spawn(|| fixture.downloader.blob(&request(&urls, &data)).unwrap());
        let two = scope.spawn(|| other.blob(&request(&urls, &data)).unwrap());
        assert_eq!(one.join().unwrap(), two.join().unwrap());
    });
    assert_eq!(server.seen().len(), 1);
    assert_eq!(fixture.partials(), Vec::<String>::new());
}
