//! A door for `fuzz/`, whose targets see only what is public: a source whose server says what it is told to.

use std::cell::Cell;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use ksos_formats::update::fetch::Range;
use ksos_formats::update::{Blob, release_name};
use ksos_formats::{Arch, Digest};

use super::pace::{Clock, Limits};
use super::{ChannelName, SourceSettings, open_with};
use crate::sys::linux::Linux;

/// A clock that is ahead as soon as somebody waits.
#[derive(Default)]
struct Impatient(Cell<Duration>);

impl Clock for Impatient {
    fn now(&self) -> Duration {
        self.0.get()
    }

    fn sleep(&self, time: Duration) {
        self.0.set(self.0.get() + time);
    }
}

/// Answers of the server: one for each connection, the last for all that follow.
type Answers = Arc<Mutex<Vec<Vec<u8>>>>;

fn serve(listener: &TcpListener, answers: &Answers) {
    for stream in listener.incoming().map_while(Result::ok) {
        let answer = {
            let mut answers = answers.lock().unwrap_or_else(PoisonError::into_inner);
            if answers.len() > 1 { answers.remove(0) } else { answers.first().cloned().unwrap_or_default() }
        };
        let _ = reply(stream, &answer);
    }
}

fn reply(mut stream: TcpStream, answer: &[u8]) -> std::io::Result<()> {
    let (mut asked, mut buffer) = (Vec::new(), [0; 4096]);
    while !asked.ends_with(b"\r\n\r\n") {
        let count = stream.read(&mut buffer)?;
        if count == 0 {
            return Ok(());
        }
        asked.extend_from_slice(&buffer[..count]);
    }
    stream.write_all(answer)?;
    stream.shutdown(Shutdown::Write)?;
    // Closing with something unread would take the answer away.
    while stream.read(&mut buffer)? > 0 {}
    Ok(())
}

/// Asks a source for everything that there is, from a server that gives these answers.
pub fn ask(answers: Vec<Vec<u8>>, registry: bool) {
    static SERVER: OnceLock<Option<(u16, Answers)>> = OnceLock::new();
    let server = SERVER.get_or_init(|| {
        let listener = TcpListener::bind("127.0.0.1:0").ok()?;
        let port = listener.local_addr().ok()?.port();
        let answers = Answers::default();
        let shared = Arc::clone(&answers);
        std::thread::spawn(move || serve(&listener, &shared));
        Some((port, answers))
    });
    let Some((port, shared)) = server else { return };
    *shared.lock().unwrap_or_else(PoisonError::into_inner) = answers;
    let scheme = if registry { "oci+http" } else { "http" };
    let settings = SourceSettings { url: format!("{scheme}://127.0.0.1:{port}/os"), ..SourceSettings::default() };
    let limits = Limits { attempts: 2, ..Limits::default() };
    let Ok(mut source) = open_with(&settings, &Linux::new(), Box::new(Impatient::default()), limits) else { return };
    let name = ChannelName { channel: "stable".to_owned(), name: "os".to_owned(), arch: Arch::X86_64 };
    let _ = source.channel(&name);
    let _ = source.keys(2);
    let Ok(version) = "1.0.0".parse() else { return };
    let _ = source.open_release(&release_name("os", &version, Arch::X86_64));
    let blob = Blob { size: 64, sha256: Digest([0; 32]) };
    let _ = source.index(&blob);
    let mut next = None;
    let _ = source.chunks(&blob, Range { start: 8, end: 40 }, &mut |offset, bytes| {
        assert!(next.is_none_or(|next| next == offset) && offset + bytes.len() as u64 <= blob.size, "bytes elsewhere");
        next = Some(offset + bytes.len() as u64);
        Ok(())
    });
}
