//! The calls of the system that no safe library offers: the one file with unsafe code.
//!
//! Each function is one call, made safe for whatever it is given. Nothing is decided here.

#![allow(unsafe_code)]

/// Bytes of the kernel's `struct tcp_info` that are read; it has grown with the years.
#[cfg(target_os = "linux")]
pub const TCP_INFO_BYTES: usize = 192;

/// Puts a duplicate of the descriptor `number` into `place`, which stands for it from then on;
/// `false` where the number stands for nothing. Needs no free descriptor.
#[cfg(target_os = "linux")]
#[must_use]
pub fn duplicate_into(number: std::os::fd::RawFd, place: &mut std::os::fd::OwnedFd) -> bool {
    use std::os::fd::AsRawFd;

    // SAFETY: the call takes numbers only. The second one is that of a descriptor that the caller
    // owns, which stays open and the caller's, whatever it stands for afterwards; for a first one
    // that stands for nothing the kernel says so.
    (unsafe { libc::dup3(number, place.as_raw_fd(), libc::O_CLOEXEC) }) >= 0
}

/// The kernel's `tcp_info` of a socket, and how much of it there is; `None` where it is no TCP socket.
#[cfg(target_os = "linux")]
#[must_use]
pub fn tcp_info(socket: &std::os::fd::OwnedFd) -> Option<([u8; TCP_INFO_BYTES], usize)> {
    use std::os::fd::AsRawFd;

    let mut info = [0; TCP_INFO_BYTES];
    let mut length = libc::socklen_t::try_from(TCP_INFO_BYTES).ok()?;
    let (fd, into) = (socket.as_raw_fd(), info.as_mut_ptr().cast());
    // SAFETY: the call writes at most `length` bytes to `info`, which is that long, and the number
    // of them to `length`; both outlive it.
    let asked =
        unsafe { libc::getsockopt(fd, libc::IPPROTO_TCP, libc::TCP_INFO, into, &raw mut length) };
    (asked == 0).then_some((info, length as usize))
}

/// Lets glibc's allocator give what was freed back to the system: blocks above a size are mapped each
/// on its own, whatever sizes were freed before, and the ends of its arenas are cut. Without, a crowd
/// or a few large bodies leave the process large for good. Other allocators are left as they are.
pub fn give_memory_back() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    {
        /// Larger than most requests and answers, which are not to pay for it.
        const MAPPED_BYTES: libc::c_int = 256 * 1024;
        const KEPT_BYTES: libc::c_int = 512 * 1024;
        for (option, value) in
            [(libc::M_MMAP_THRESHOLD, MAPPED_BYTES), (libc::M_TRIM_THRESHOLD, KEPT_BYTES)]
        {
            // SAFETY: the call takes two numbers, and refuses what it does not know.
            let _ = unsafe { libc::mallopt(option, value) };
        }
    }
}
