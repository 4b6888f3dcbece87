use std::thread::JoinHandle;

use super::*;

/// Answers with the path, and `/slow` after a while.
struct Echo(u32);

impl Answer<u8> for Echo {
    fn answer(&mut self, endpoint: u8, peer: IpAddr, request: &Request) -> Response {
        self.0 += 1;
        match request.path.as_str() {
            "/slow" => std::thread::sleep(Duration::from_millis(300)),
            "/large" => return Response { status: 200, fields: Vec::new(), body: vec![b'x'; 8 << 20] },
            _ => {}
        }
        Response::text(200, &format!("{endpoint} {peer} {}", request.path))
    }
}

fn server() -> (Server<u8>, SocketAddr) {
    let mut server = Server::new();
    let address = server.open(7, "127.0.0.1:0".parse().expect("an address")).expect("open");
    (server, address)
}

/// Turns the server until the clients have ended, and returns what they found.
fn serve<T>(server: &mut Server<u8>, clients: Vec<JoinHandle<T>>) -> Vec<T> {
    let mut echo = Echo(0);
    while !clients.iter().all(JoinHandle::is_finished) {
        server.turn(Some(Duration::from_millis(20)), &mut echo).expect("poll");
    }
    clients.into_iter().map(|client| client.join().expect("no panic")).collect()
}

/// Turns the server until it has `count` connections: a client may be gone long before the server has seen it.
fn until_connections(server: &mut Server<u8>, count: usize) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while server.connections.len() != count {
        assert!(Instant::now() < deadline, "{} connections instead of {count}", server.connections.len());
        server.turn(Some(Duration::from_millis(20)), &mut Echo(0)).expect("poll");
    }
}

/// Sends `request`, reads to the end, and returns everything with the time it took.
fn client(address: SocketAddr, request: impl Into<Vec<u8>>) -> JoinHandle<(String, Duration)> {
    let request = request.into();
    std::thread::spawn(move || {
        let start = Instant::now();
        let mut stream = TcpStream::connect(address).expect("connected");
        // The server may have closed.
        let _ = stream.write_all(&request);
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        (String::from_utf8_lossy(&answer).into_owned(), start.elapsed())
    })
}

fn get(path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n")
}

#[test]
fn requests_are_answered_and_connections_closed() {
    let (mut server, address) = server();
    let head = "HEAD /a HTTP/1.1\r\nHost: a\r\n\r\n".to_owned();
    let clients = [get("/a"), head, get("/a") + &get("/b")];
    let answers = serve(&mut server, clients.map(|request| client(address, request)).into());
    let fields =
        "HTTP/1.1 200 OK\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Length: 15\r\nConnection: close\r\n\r\n";
    assert_eq!(answers[0].0, format!("{fields}7 127.0.0.1 /a\n"));
    assert_eq!(answers[1].0, fields);
    assert_eq!(answers[2].0, answers[0].0, "one request per connection");
    until_connections(&mut server, 0);
    assert_eq!(server.rejected(), 0);
}

#[test]
fn faulty_requests_get_their_status_although_more_was_sent() {
    let (mut server, address) = server();
    let huge = format!("GET / HTTP/1.1\r\nHost: a\r\nX: {}", "x".repeat(40_000));
    let cases = [
        (huge.into_bytes(), "HTTP/1.1 431 "),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03".to_vec(), "HTTP/1.1 400 "),
        (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 9999\r\n\r\nbody".to_vec(), "HTTP/1.1 405 "),
        (vec![0; 4096], "HTTP/1.1 400 "),
    ];
    for (request, expected) in cases {
        let answers = serve(&mut server, vec![client(address, request)]);
        assert!(answers[0].0.starts_with(expected), "{expected}: {:?}", answers[0].0);
    }
}

#[test]
fn slow_clients_do_not_keep_others_waiting_and_end() {
    let (mut server, address) = server();
    let slow = || {
        std::thread::spawn(move || {
            let start = Instant::now();
            let mut stream = TcpStream::connect(address).expect("connected");
            stream.set_read_timeout(Some(Duration::from_millis(100))).expect("set");
            let mut answer = Vec::new();
            // A field name that never ends.
            while stream.write_all(b"G").is_ok() && start.elapsed() < Duration::from_secs(20) {
                let mut buffer = [0; 256];
                match stream.read(&mut buffer) {
                    Ok(0) => break,
                    Ok(count) => answer.extend_from_slice(&buffer[..count]),
                    Err(_) => {}
                }
            }
            (String::from_utf8_lossy(&answer).into_owned(), start.elapsed())
        })
    };
    let mut clients = vec![slow(), slow(), slow()];
    std::thread::sleep(Duration::from_millis(50));
    clients.push(client(address, get("/a")));
    let answers = serve(&mut server, clients);
    for (answer, time) in &answers[..3] {
        assert!(answer.starts_with("HTTP/1.1 408 ") && *time >= RECEIVE_TIME, "{answer} {time:?}");
        assert!(answers[3].1 < *time, "{:?} waited for {time:?}", answers[3]);
    }
    until_connections(&mut server, 0);
}

#[test]
fn half_open_and_reset_clients_are_forgotten() {
    let (mut server, address) = server();
    let half = std::thread::spawn(move || {
        let stream = TcpStream::connect(address).expect("connected");
        (&stream).write_all(b"GET / HT").expect("sent");
        stream.shutdown(Shutdown::Write).expect("shut down");
        let mut answer = Vec::new();
        let _ = (&stream).read_to_end(&mut answer);
        answer.len()
    });
    let complete = std::thread::spawn(move || {
        let stream = TcpStream::connect(address).expect("connected");
        (&stream).write_all(get("/a").as_bytes()).expect("sent");
        stream.shutdown(Shutdown::Write).expect("shut down");
        let mut answer = Vec::new();
        (&stream).read_to_end(&mut answer).expect("an answer");
        answer.len()
    });
    let reset = std::thread::spawn(move || {
        let stream = TcpStream::connect(address).expect("connected");
        (&stream).write_all(get("/large").as_bytes()).expect("sent");
        rustix::net::sockopt::set_socket_linger(&stream, Some(Duration::ZERO)).expect("set");
        std::thread::sleep(Duration::from_millis(100));
        0
    });
    let lengths = serve(&mut server, vec![half, complete, reset]);
    assert!(lengths[0] == 0 && lengths[1] > 50, "{lengths:?}");
    until_connections(&mut server, 0);
}

#[test]
fn a_client_that_reads_nothing_holds_one_answer() {
    let (mut server, address) = server();
    let stream = TcpStream::connect(address).expect("connected");
    // Otherwise the kernel may take the whole answer: tcp_rmem allows 32 MiB on some machines.
    rustix::net::sockopt::set_socket_recv_buffer_size(&stream, 16 << 10).expect("set");
    (&stream).write_all(get("/large").as_bytes()).expect("sent");
    let answers = {
        let other = std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(200));
            client(address, get("/a")).join().expect("no panic")
        });
        serve(&mut server, vec![other])
    };
    assert!(answers[0].0.starts_with("HTTP/1.1 200"), "{answers:?}");
    until_connections(&mut server, 1);
    assert!(matches!(server.connections[0].phase, Phase::Sending { .. }));
    assert!(server.connections[0].deadline <= Instant::now() + SEND_TIME);
}

#[test]
fn connections_are_limited_in_all_and_by_address() {
    let (mut server, address) = server();
    let mut echo = Echo(0);
    let mut open = Vec::new();
    let mut connect = |server: &mut Server<u8>, from: u8, count: usize| {
        for _ in 0..count {
            open.push(connect_from([127, 0, 0, from], address));
            server.turn(Some(Duration::from_millis(20)), &mut echo).expect("poll");
        }
    };
    connect(&mut server, 2, PEER_LIMIT + 3);
    assert_eq!((server.connections.len(), server.rejected()), (PEER_LIMIT, 3));
    connect(&mut server, 3, 4);
    connect(&mut server, 4, 20);
    assert_eq!((server.connections.len(), server.rejected()), (CONNECTION_LIMIT, 3 + 16));
    drop(open);
    until_connections(&mut server, 0);
    let answers = serve(&mut server, vec![client(address, get("/a"))]);
    assert!(answers[0].0.starts_with("HTTP/1.1 200"), "{answers:?}");
}

fn connect_from(from: [u8; 4], to: SocketAddr) -> TcpStream {
    let socket = rustix::net::socket_with(AddressFamily::INET, SocketType::STREAM, SocketFlags::CLOEXEC, None);
    let socket = socket.expect("a socket");
    rustix::net::bind(&socket, &SocketAddr::from((from, 0))).expect("bound");
    rustix::net::connect(&socket, &to).expect("connected");
    TcpStream::from(socket)
}

#[test]
fn an_answer_that_takes_time_costs_others_nothing() {
    let (mut server, address) = server();
    let idle = TcpStream::connect(address).expect("connected");
    until_connections(&mut server, 1);
    let before = server.connections[0].deadline;
    serve(&mut server, vec![client(address, get("/slow"))]);
    assert!(server.connections[0].deadline >= before + Duration::from_millis(300));
    drop(idle);
}

#[test]
fn without_clients_a_turn_lasts_until_its_timeout() {
    let (mut server, _) = server();
    let start = Instant::now();
    server.turn(Some(Duration::from_millis(300)), &mut Echo(0)).expect("poll");
    assert!(start.elapsed() >= Duration::from_millis(290));
}

#[test]
fn addresses() {
    for (text, expected) in [
        (":9100", "[::]:9100"),
        ("127.0.0.1:9100", "127.0.0.1:9100"),
        ("[::1]:9100", "[::1]:9100"),
        ("0.0.0.0:80", "0.0.0.0:80"),
    ] {
        assert_eq!(parse_address(text).expect("valid").to_string(), expected);
    }
    for text in
        ["", ":", "9100", ":0", ":99999", ":+80", "::1:80", "localhost:80", "1.2.3.4", "1.2.3:80", ":80 ", "a\nb:1"]
    {
        assert!(parse_address(text).is_err(), "{text}");
    }
    assert_eq!(
        parse_address("x").expect_err("none").to_string(),
        "listen address \"x\": not ADDRESS:PORT, [ADDRESS]:PORT or :PORT"
    );
}

#[test]
fn every_address_takes_both_families() {
    let mut server = Server::new();
    let port = server.open(1_u8, SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0))).expect("open").port();
    let clients: Vec<_> = ["127.0.0.1", "::1"]
        .into_iter()
        .map(|ip| SocketAddr::new(ip.parse().expect("an address"), port))
        // Where loopback has no IPv6, there is nothing to connect to.
        .filter(|address| address.is_ipv4() || TcpListener::bind((Ipv6Addr::LOCALHOST, 0)).is_ok())
        .map(|address| client(address, get("/a")))
        .collect();
    for (answer, _) in serve(&mut server, clients) {
        assert!(answer.contains("1 127.0.0.1 /a") || answer.contains("1 ::1 /a"), "{answer}");
    }
}

#[test]
fn a_taken_address_is_named() {
    let (mut server, address) = server();
    let error = server.open(8, address).expect_err("taken");
    assert_eq!(error.to_string(), format!("listen on \"{address}\": Address already in use (os error 98)"));
    server.close(7);
    assert!(!server.is_open(7) && server.is_idle());
    assert!(server.open(8, address).is_ok(), "the port is free again");
}
