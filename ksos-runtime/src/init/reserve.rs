//! A small file on the data partition that is given up when the partition is full, so that what PID 1 has to write
//! (boot count, machine-id, boot log, a request for a factory reset) finds room.
//!
//! The file system's own reserved blocks are no help: they are for root, and services are root. What ext4 keeps back for
//! its metadata beyond that (2 %, at most 4096 blocks; kernel `fs/ext4/super.c`, `ext4_set_resv_clusters`) nobody gets.

use crate::sys::{Result, Sys};

/// Size of the file, in bytes.
const SIZE: usize = 256 << 10;
/// Room that must be left beside it before it is made, in bytes.
const ROOM: u64 = 8 << 20;

fn path(data: &str) -> String {
    format!("{data}/ksos/reserve")
}

/// Makes the file, if it is not there and there is room.
pub(super) fn ensure(sys: &dyn Sys, data: &str) {
    let path = path(data);
    if sys.file_size(&path).is_ok_and(|size| size == SIZE as u64) {
        return;
    }
    if sys.space(data).is_ok_and(|space| space.available >= ROOM) {
        // Without it the next boot on a full partition is degraded by one reason more.
        let _ = sys.replace(&path, &vec![0; SIZE], 0o600);
    }
}

/// Gives the room up.
pub(super) fn release(sys: &dyn Sys, data: &str) {
    let _ = sys.remove(&format!("{}.new", path(data)));
    if sys.remove(&path(data)).is_ok() {
        // Blocks of a removed file are free once the journal has it.
        sys.sync();
    }
}

/// Replaces a file on the data partition; if that is full, with the room that was reserved.
pub(super) fn replace(sys: &dyn Sys, data: &str, path: &str, bytes: &[u8], mode: u32) -> Result<()> {
    with_room(sys, data, path, &|| sys.replace(path, bytes, mode))
}

/// Like [`replace`], without waiting until it is durable ([`Sys::replace_soon`]).
pub(super) fn replace_soon(sys: &dyn Sys, data: &str, path: &str, bytes: &[u8], mode: u32) -> Result<()> {
    with_room(sys, data, path, &|| sys.replace_soon(path, bytes, mode))
}

fn with_room(sys: &dyn Sys, data: &str, path: &str, replace: &dyn Fn() -> Result<()>) -> Result<()> {
    match replace() {
        Err(error) if error.is_full() => {
            release(sys, data);
            replace().inspect_err(|_| {
                // The temporary file that did not get full.
                let _ = sys.remove(&format!("{path}.new"));
            })
        }
        result => result,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::Space;
    use crate::sys::double::Double;

    #[test]
    fn is_made_when_there_is_room_and_given_up_when_there_is_none() {
        let sys = Double::new();
        sys.put("/data/ksos/x", "");
        sys.room.set(Space { total: 1 << 30, available: ROOM - 1, free: ROOM });
        ensure(&sys, "/data");
        assert_eq!(sys.kind("/data/ksos/reserve"), None);
        sys.room.set(Space { total: 1 << 30, available: ROOM, free: ROOM });
        ensure(&sys, "/data");
        assert_eq!(sys.file_size("/data/ksos/reserve").expect("there"), SIZE as u64);
        sys.full_while.borrow_mut().replace("/data/ksos/reserve".to_owned());
        replace(&sys, "/data", "/data/ksos/boot-count", b"4\n", 0o644).expect("there is room now");
        assert_eq!(sys.text("/data/ksos/boot-count"), "4\n");
        assert_eq!(sys.kind("/data/ksos/reserve"), None);
    }
}
