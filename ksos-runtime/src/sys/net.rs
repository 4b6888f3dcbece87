//! Sockets and the clock's steering, as far as rustix has no safe form of them.

#![expect(unsafe_code, reason = "packet sockets, socket filters and adjtimex(2) have no safe form in rustix")]

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

/// Link layer address of everybody.
const BROADCAST: [u8; 6] = [0xff; 6];

/// Opens a socket for IPv4 packets on one interface, address or not: link headers are the kernel's, and only unfragmented
/// UDP packets to `port` arrive.
pub fn packet_socket(index: u32, port: u16) -> io::Result<OwnedFd> {
    // Protocol 0: nothing arrives before the filter is set and the socket is bound.
    // SAFETY: socket(2) takes integers; the descriptor is new and owned by us.
    let socket = unsafe {
        let fd = libc::socket(libc::AF_PACKET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK, 0);
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        OwnedFd::from_raw_fd(fd)
    };
    attach_filter(&socket, port)?;
    let address = link_address(index, None);
    // SAFETY: `address` is a complete sockaddr_ll and lives through the call.
    let result = unsafe {
        libc::bind(socket.as_raw_fd(), (&raw const address).cast(), size_of::<libc::sockaddr_ll>() as libc::socklen_t)
    };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(socket) }
}

/// Sends an IPv4 packet to everybody on the link.
pub fn send_on_link(socket: &OwnedFd, index: u32, packet: &[u8]) -> io::Result<()> {
    let address = link_address(index, Some(BROADCAST));
    // SAFETY: buffer and address are live for the call, with their true lengths.
    let sent = unsafe {
        libc::sendto(
            socket.as_raw_fd(),
            packet.as_ptr().cast(),
            packet.len(),
            0,
            (&raw const address).cast(),
            size_of::<libc::sockaddr_ll>() as libc::socklen_t,
        )
    };
    if sent < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Binds a socket to an interface by name (socket(7), `SO_BINDTODEVICE`).
pub fn bind_to_device(socket: &impl AsRawFd, name: &str) -> io::Result<()> {
    // SAFETY: the option's value is a byte string with its length.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_BINDTODEVICE,
            name.as_ptr().cast(),
            name.len() as libc::socklen_t,
        )
    };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Lets the clock run faster or slower until it has made up `offset_us`, at most 0.5 ms in a second, and tells the kernel
/// that it is right within `error_us` (adjtimex(2)); with that, the kernel keeps a hardware clock right as well.
pub(super) fn slew_clock(offset_us: i64, error_us: i64) -> io::Result<()> {
    // SAFETY: a timex of zeroes is valid: modes 0 is set before use, and the kernel writes only inside it.
    let mut state: libc::timex = unsafe { std::mem::zeroed() };
    state.modes = libc::ADJ_STATUS | libc::ADJ_MAXERROR | libc::ADJ_ESTERROR;
    state.maxerror = error_us as _;
    state.esterror = error_us as _;
    // SAFETY: as above.
    if unsafe { libc::adjtimex(&raw mut state) } < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: as above.
    let mut state: libc::timex = unsafe { std::mem::zeroed() };
    state.modes = libc::ADJ_OFFSET_SINGLESHOT;
    state.offset = offset_us as _;
    // SAFETY: as above.
    if unsafe { libc::adjtimex(&raw mut state) } < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

fn link_address(index: u32, hardware: Option<[u8; 6]>) -> libc::sockaddr_ll {
    // SAFETY: a sockaddr_ll of zeroes is valid.
    let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
    address.sll_family = libc::AF_PACKET as u16;
    address.sll_protocol = (libc::ETH_P_IP as u16).to_be();
    address.sll_ifindex = index as i32;
    if let Some(hardware) = hardware {
        address.sll_halen = 6;
        address.sll_addr[..6].copy_from_slice(&hardware);
    }
    address
}

/// Attaches a classic BPF program: without it every packet of a busy link would wake the process. Offsets count from the
/// IPv4 header.
fn attach_filter(socket: &OwnedFd, port: u16) -> io::Result<()> {
    let op = |code: u32, jt: u8, jf: u8, k: u32| libc::sock_filter { code: code as u16, jt, jf, k };
    let (load_byte, load_half, load_half_x) = (0x30, 0x28, 0x48);
    let (jump_equal, jump_set, header_length, give) = (0x15, 0x45, 0xb1, 0x06);
    let mut program = [
        op(load_byte, 0, 0, 9),                // protocol
        op(jump_equal, 0, 6, 17),              // UDP, or drop
        op(load_half, 0, 0, 6),                // flags and fragment offset
        op(jump_set, 4, 0, 0x1fff),            // a later fragment: drop
        op(header_length, 0, 0, 0),            // X = length of the IPv4 header
        op(load_half_x, 0, 0, 2),              // destination port
        op(jump_equal, 0, 1, u32::from(port)), // ours, or drop
        op(give, 0, 0, 0xffff),
        op(give, 0, 0, 0),
    ];
    let filter = libc::sock_fprog { len: program.len() as u16, filter: program.as_mut_ptr() };
    // SAFETY: the program outlives the call, which copies it; length and pointer belong together.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_ATTACH_FILTER,
            (&raw const filter).cast(),
            size_of::<libc::sock_fprog>() as libc::socklen_t,
        )
    };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
