//! Packets of time servers (RFC 5905, section 7.3; the checks are those of RFC 4330, section 5).

/// Length of a packet without extensions.
pub const LENGTH: usize = 48;
/// Seconds from 1900 to 1970.
const TO_UNIX: u64 = 2_208_988_800;
/// Version 4, mode 3: client.
const CLIENT: u8 = 4 << 3 | 3;
/// Mode of an answer.
const SERVER: u8 = 4;
/// Root delay and dispersion of a server that is too far from a clock to be of use, in 2^-16 s: 16 s (`MAXDISP`).
const FARTHEST: u32 = 16 << 16;

/// What a server answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reply {
    /// Distance from a reference clock in servers, 1 to 15.
    pub stratum: u8,
    /// When the request arrived, nanoseconds since 1970.
    pub received_ns: i128,
    /// When the answer left, nanoseconds since 1970.
    pub sent_ns: i128,
    /// Half the delay to the reference clock and the error it adds, in microseconds.
    pub error_us: i64,
}

/// Why bytes are no answer that can be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[expect(missing_docs, reason = "the texts say it")]
pub enum ReplyError {
    #[error("an answer of {0} bytes")]
    Short(usize),
    #[error("an answer to another request")]
    Other,
    #[error("a packet of mode {0}, which is no server's answer")]
    Mode(u8),
    #[error("the server has no time itself (leap indicator 3 or stratum {0})")]
    Unsynchronised(u8),
    #[error("the server is more than 16 s from its reference clock")]
    Far,
    #[error("the server's times do not fit each other")]
    Times,
    #[error("the server's time is before the time that this image was built")]
    Early,
    #[error("the server wants to be asked less often")]
    Rate,
    #[error("the server wants not to be asked (kiss code {0})")]
    Denied(String),
}

/// Returns a request. Its transmit timestamp is a nonce: it tells nobody the node's clock, and cannot be guessed.
pub fn request(nonce: u64) -> [u8; LENGTH] {
    let mut packet = [0; LENGTH];
    packet[0] = CLIENT;
    packet[40..].copy_from_slice(&nonce.to_be_bytes());
    packet
}

/// Reads the answer to the request with this nonce. `floor` (seconds since 1970) is a time that is surely past; it also
/// tells which of the 136-year eras is meant.
pub fn read(bytes: &[u8], nonce: u64, floor: u64) -> Result<Reply, ReplyError> {
    let packet = bytes.first_chunk::<LENGTH>().ok_or(ReplyError::Short(bytes.len()))?;
    let word = |at: usize| u32::from_be_bytes([packet[at], packet[at + 1], packet[at + 2], packet[at + 3]]);
    let long = |at: usize| u64::from(word(at)) << 32 | u64::from(word(at + 4));
    // Before all else: what does not repeat the nonce comes from somebody who did not see the request.
    if long(24) != nonce {
        return Err(ReplyError::Other);
    }
    if packet[0] & 7 != SERVER {
        return Err(ReplyError::Mode(packet[0] & 7));
    }
    let stratum = packet[1];
    if stratum == 0 {
        return Err(kiss(&packet[12..16]));
    }
    if packet[0] >> 6 == 3 || stratum > 15 {
        return Err(ReplyError::Unsynchronised(stratum));
    }
    let (delay, dispersion) = (word(4), word(8));
    if delay > FARTHEST || dispersion > FARTHEST {
        return Err(ReplyError::Far);
    }
    let (received, sent) = (long(32), long(40));
    if received == 0 || sent == 0 {
        return Err(ReplyError::Times);
    }
    let (received_ns, sent_ns) = (unix_ns(received, floor)?, unix_ns(sent, floor)?);
    if sent_ns < received_ns {
        return Err(ReplyError::Times);
    }
    let error_us = (u64::from(delay / 2 + dispersion) * 1_000_000) >> 16;
    Ok(Reply { stratum, received_ns, sent_ns, error_us: error_us as i64 })
}

/// The codes of RFC 5905, section 7.4.
fn kiss(code: &[u8]) -> ReplyError {
    match code {
        b"RATE" => ReplyError::Rate,
        b"DENY" | b"RSTR" => ReplyError::Denied(String::from_utf8_lossy(code).into_owned()),
        _ => ReplyError::Unsynchronised(0),
    }
}

/// Returns a timestamp as nanoseconds since 1970: the one that is less than 68 years after `floor`.
fn unix_ns(timestamp: u64, floor: u64) -> Result<i128, ReplyError> {
    let seconds = (timestamp >> 32) as u32;
    let ahead = seconds.wrapping_sub((floor + TO_UNIX) as u32);
    if ahead > i32::MAX as u32 {
        return Err(ReplyError::Early);
    }
    let fraction = (u128::from(timestamp & 0xffff_ffff) * 1_000_000_000) >> 32;
    Ok(i128::from(floor + u64::from(ahead)) * 1_000_000_000 + fraction as i128)
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    const FLOOR: u64 = 1_700_000_000;

    /// An answer with these times, in nanoseconds since 1970.
    pub(crate) fn answer(nonce: u64, received_ns: i128, sent_ns: i128) -> [u8; LENGTH] {
        let mut packet = [0; LENGTH];
        packet[0] = 4 << 3 | 4;
        packet[1] = 2;
        packet[24..32].copy_from_slice(&nonce.to_be_bytes());
        for (at, time) in [(32, received_ns), (40, sent_ns)] {
            let seconds = (time / 1_000_000_000) as u64 + TO_UNIX;
            let fraction = ((time % 1_000_000_000) as u128) << 32;
            let fraction = fraction.div_ceil(1_000_000_000) as u64;
            packet[at..at + 8].copy_from_slice(&(seconds << 32 | fraction).to_be_bytes());
        }
        packet
    }

    #[test]
    fn a_usual_answer() {
        let time = i128::from(FLOOR) * 1_000_000_000 + 123_456_789;
        let mut packet = answer(77, time, time + 1000);
        packet[4..8].copy_from_slice(&(1_u32 << 16).to_be_bytes());
        let reply = read(&packet, 77, FLOOR).expect("an answer");
        assert_eq!((reply.stratum, reply.error_us), (2, 500_000));
        assert!((reply.received_ns - time).abs() <= 1 && (reply.sent_ns - time - 1000).abs() <= 1, "{reply:?}");
        assert_eq!(request(77)[..4], [0x23, 0, 0, 0]);
        assert_eq!(request(77)[40..], 77_u64.to_be_bytes());
    }

    #[test]
    fn answers_that_cannot_be_used_are_named() {
        let time = i128::from(FLOOR + 5) * 1_000_000_000;
        let good = answer(77, time, time);
        let with = |at: usize, bytes: &[u8]| {
            let mut packet = good;
            packet[at..at + bytes.len()].copy_from_slice(bytes);
            read(&packet, 77, FLOOR)
        };
        assert_eq!(read(&good[..47], 77, FLOOR), Err(ReplyError::Short(47)));
        assert_eq!(read(&good, 78, FLOOR), Err(ReplyError::Other));
        assert_eq!(with(0, &[0x23]), Err(ReplyError::Mode(3)));
        assert_eq!(with(0, &[0x25]), Err(ReplyError::Mode(5)), "broadcast");
        assert_eq!(with(0, &[0xe4]), Err(ReplyError::Unsynchronised(2)));
        assert_eq!(with(1, &[16]), Err(ReplyError::Unsynchronised(16)));
        assert_eq!(with(1, &[0]), Err(ReplyError::Unsynchronised(0)));
        assert_eq!(with(4, &[0, 17, 0, 0]), Err(ReplyError::Far));
        assert_eq!(with(8, &[0xff; 4]), Err(ReplyError::Far));
        assert_eq!(with(40, &[0; 8]), Err(ReplyError::Times));
        assert_eq!(with(32, &[0; 8]), Err(ReplyError::Times));
        let backwards = answer(77, time, time - 1_000_000);
        assert_eq!(read(&backwards, 77, FLOOR), Err(ReplyError::Times));
        let mut kiss = good;
        kiss[1] = 0;
        kiss[12..16].copy_from_slice(b"RATE");
        assert_eq!(read(&kiss, 77, FLOOR), Err(ReplyError::Rate));
        kiss[12..16].copy_from_slice(b"DENY");
        assert_eq!(read(&kiss, 77, FLOOR), Err(ReplyError::Denied("DENY".to_owned())));
    }

    #[test]
    fn eras_follow_the_floor() {
        // 7 February 2036, 06:28:16 UTC: the 32-bit seconds begin anew.
        let wrap = (1_u64 << 32) - TO_UNIX;
        let after = i128::from(wrap + 10) * 1_000_000_000;
        let mut packet = answer(1, after, after);
        packet[32..36].copy_from_slice(&10_u32.to_be_bytes());
        packet[40..44].copy_from_slice(&10_u32.to_be_bytes());
        assert_eq!(read(&packet, 1, wrap - 1000).map(|reply| reply.sent_ns), Ok(after));
        assert_eq!(read(&packet, 1, wrap + 11), Err(ReplyError::Early));
        let before = i128::from(FLOOR - 1) * 1_000_000_000;
        assert_eq!(read(&answer(1, before, before), 1, FLOOR), Err(ReplyError::Early));
    }
}
