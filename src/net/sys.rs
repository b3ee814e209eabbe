//! System calls that no safe library offers: the only unsafe code.
//!
//! Each function is one call, made safe for any argument, and decides nothing. Two stand in the place of the C
//! library's instead, because tiny_http gives no other hold of its connections: `accept4` tells of arrivals, and
//! `recv` ends bodies that nobody reads (`receive`).

#![allow(unsafe_code)]

mod receive;
#[cfg(target_os = "linux")]
mod request_line;

pub use self::receive::{ACCEPTOR_THREADS, PREREAD_LIMIT, close_connection, read_body, read_zeros};

/// Bytes of the kernel's `struct tcp_info` that are read; newer kernels have more.
#[cfg(target_os = "linux")]
pub const TCP_INFO_BYTES: usize = 192;

/// Makes `place` a duplicate of the descriptor `number`; `false` if that is not open. Needs no free
/// descriptor.
#[cfg(target_os = "linux")]
pub fn duplicate_into(number: std::os::fd::RawFd, place: &mut std::os::fd::OwnedFd) -> bool {
    use std::os::fd::AsRawFd;

    // SAFETY: the call takes only numbers. The second is a descriptor that the caller owns and still
    // owns afterwards; if the first is not open, the kernel returns an error.
    (unsafe { libc::dup3(number, place.as_raw_fd(), libc::O_CLOEXEC) }) >= 0
}

/// Stands in the place of the C library's function of this name, which the standard library calls for
/// `TcpListener::accept`: the same system call, told to `arrivals` before and after it.
#[cfg(target_os = "linux")]
#[unsafe(no_mangle)]
unsafe extern "C" fn accept4(
    listener: libc::c_int,
    address: *mut libc::sockaddr,
    length: *mut libc::socklen_t,
    flags: libc::c_int,
) -> libc::c_int {
    let arrivals = local_port(listener).and_then(super::arrivals::before_accept);
    // SAFETY: the caller promises what the C library's function asks for, and the system call takes the
    // same arguments. It sets the same error number, which nothing below changes.
    let accepted = unsafe { libc::syscall(libc::SYS_accept4, listener, address, length, flags) }
        as libc::c_int;
    if accepted >= 0
        && let Some(arrivals) = arrivals
    {
        arrivals.note_accepted();
    }
    accepted
}

/// The port to which a socket is bound.
#[cfg(target_os = "linux")]
fn local_port(socket: std::os::fd::RawFd) -> Option<u16> {
    use std::os::fd::BorrowedFd;

    if socket < 0 {
        return None;
    }
    // SAFETY: the borrow ends with this function. If the caller's number is not open, or not a socket,
    // the call fails.
    let socket = unsafe { BorrowedFd::borrow_raw(socket) };
    Some(socket2::SockRef::from(&socket).local_addr().ok()?.as_socket()?.port())
}

/// Most descriptors of one call; low, because `poll` fails above the limit of open files.
#[cfg(target_os = "linux")]
pub const POLL_BATCH: usize = 64;

/// Whether any of these descriptors is open, or the system does not tell. Only the first
/// [`POLL_BATCH`] are checked.
#[cfg(target_os = "linux")]
pub fn has_open_fd(numbers: std::ops::Range<std::os::fd::RawFd>) -> bool {
    let mut poll_fds = [libc::pollfd { fd: -1, events: 0, revents: 0 }; POLL_BATCH];
    let mut count = 0;
    for (place, number) in poll_fds.iter_mut().zip(numbers) {
        place.fd = number;
        count += 1;
    }
    // SAFETY: the call reads and writes `count` entries, which exist; it takes only numbers, and marks
    // those that are not open.
    let result = unsafe { libc::poll(poll_fds.as_mut_ptr(), count, 0) };
    let is_open = |it: &libc::pollfd| it.fd >= 0 && it.revents & libc::POLLNVAL == 0;
    result < 0 || poll_fds.iter().any(is_open)
}

/// The kernel's `tcp_info` of a socket and its length; `None` for anything but a TCP socket.
#[cfg(target_os = "linux")]
pub fn tcp_info(socket: &std::os::fd::OwnedFd) -> Option<([u8; TCP_INFO_BYTES], usize)> {
    use std::os::fd::AsRawFd;

    let mut info = [0; TCP_INFO_BYTES];
    let mut length = libc::socklen_t::try_from(TCP_INFO_BYTES).ok()?;
    let (fd, into) = (socket.as_raw_fd(), info.as_mut_ptr().cast());
    // SAFETY: the call writes at most `length` bytes to `info`, which is that long, and their number
    // to `length`; both outlive the call.
    let result =
        unsafe { libc::getsockopt(fd, libc::IPPROTO_TCP, libc::TCP_INFO, into, &raw mut length) };
    (result == 0).then_some((info, length as usize))
}

/// Lets glibc's allocator return freed memory to the system: blocks above a fixed size get their own
/// mapping, and the ends of its arenas are trimmed. Otherwise the process keeps the memory of many
/// connections or of a few large bodies until it ends. Does nothing with other allocators.
pub fn configure_allocator() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    {
        /// Larger than most requests and responses, which would be slower with their own mapping.
        const MMAP_THRESHOLD: libc::c_int = 256 * 1024;
        const TRIM_THRESHOLD: libc::c_int = 512 * 1024;
        for (option, value) in
            [(libc::M_MMAP_THRESHOLD, MMAP_THRESHOLD), (libc::M_TRIM_THRESHOLD, TRIM_THRESHOLD)]
        {
            // SAFETY: the call takes two numbers, and refuses unknown ones.
            let _ = unsafe { libc::mallopt(option, value) };
        }
    }
}

/// Returns the free memory of all arenas of glibc's allocator to the system. Does nothing with other
/// allocators.
pub fn release_free_memory() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    // SAFETY: the call takes a number and touches free memory only, under the allocator's locks.
    let _ = unsafe { libc::malloc_trim(0) };
}

/// Asks for large pages under the part of `buffer` that holds whole ones, so that touching it first
/// costs one page fault for each. Does nothing where the system has no large pages.
pub fn advise_huge_pages<T>(buffer: &mut [T]) {
    #[cfg(target_os = "linux")]
    {
        /// Bytes of a large page.
        const HUGE_PAGE: usize = 2 * 1024 * 1024;
        let start = buffer.as_mut_ptr().cast::<u8>();
        let ahead = start.align_offset(HUGE_PAGE);
        let length = size_of_val(buffer).saturating_sub(ahead) / HUGE_PAGE * HUGE_PAGE;
        if length > 0 && !HAS_SMALL_PAGES.load(std::sync::atomic::Ordering::Relaxed) {
            // SAFETY: the range lies within `buffer`, which is borrowed mutably, and the advice does
            // not change its contents.
            let _ = unsafe {
                libc::madvise(start.wrapping_add(ahead).cast(), length, libc::MADV_HUGEPAGE)
            };
        }
    }
    #[cfg(not(target_os = "linux"))]
    let _ = buffer;
}

/// Set once large pages are not to be used.
#[cfg(target_os = "linux")]
static HAS_SMALL_PAGES: std::sync::atomic::AtomicBool = std::sync::atomic::AtomicBool::new(false);

/// Keeps the whole process on small pages from now on: a large one is in memory as a whole however little of it
/// is used, and a buffer of which only a part was advised is copied when it grows.
pub fn disable_huge_pages() {
    #[cfg(target_os = "linux")]
    {
        HAS_SMALL_PAGES.store(true, std::sync::atomic::Ordering::Relaxed);
        // SAFETY: the call takes only numbers, and changes no memory.
        let _ = unsafe { libc::prctl(libc::PR_SET_THP_DISABLE, 1, 0, 0, 0) };
    }
}

/// Returns the stack pages below the caller's frame to the system; they read as zeros when used again.
/// For threads that stay in one call for long, after calls that went deep.
#[inline(never)] // Its own frame shows where the caller's ends.
pub fn trim_stack() {
    #[cfg(target_os = "linux")]
    {
        /// Bytes below this frame that are kept, for the calls in here and for the next ones.
        const MARGIN_BYTES: usize = 2 * 1024;
        const PAGE: usize = 4096;
        let marker = 0_u8;
        let here = &raw const marker as usize;
        let Some((lowest, end)) = stack_bounds() else { return };
        let above = here.saturating_sub(MARGIN_BYTES) / PAGE * PAGE;
        if lowest % PAGE == 0 && lowest < above && here < end {
            // SAFETY: the range lies within this thread's own stack and below all frames in use, so that
            // nothing in it is alive; no other thread uses it.
            let _ = unsafe {
                libc::madvise(lowest as *mut libc::c_void, above - lowest, libc::MADV_DONTNEED)
            };
        }
    }
}

/// The lowest address of this thread's stack, and its end.
#[cfg(target_os = "linux")]
fn stack_bounds() -> Option<(usize, usize)> {
    let mut attributes = std::mem::MaybeUninit::<libc::pthread_attr_t>::uninit();
    let (mut lowest, mut size) = (std::ptr::null_mut(), 0);
    // SAFETY: the first call initializes the attributes if it succeeds; only then are they read, and
    // destroyed once.
    unsafe {
        if libc::pthread_getattr_np(libc::pthread_self(), attributes.as_mut_ptr()) != 0 {
            return None;
        }
        let got = libc::pthread_attr_getstack(attributes.as_ptr(), &raw mut lowest, &raw mut size);
        libc::pthread_attr_destroy(attributes.as_mut_ptr());
        (got == 0).then_some((lowest as usize, lowest as usize + size))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_buffer_keeps_its_contents_whatever_pages_it_is_on() {
        for length in [0, 1, 5000, 2 << 20, 7_654_321] {
            let mut buffer: Vec<u8> = (0..=255).cycle().take(length).collect();
            let before = buffer.clone();
            advise_huge_pages(&mut buffer);
            assert!(buffer == before, "{length}");
        }
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn descriptors_are_told_open_from_closed() {
        use std::os::fd::AsRawFd;

        let open = std::fs::File::open("/dev/null").expect("a file");
        let number = open.as_raw_fd();
        // Beyond every limit that this process could have used.
        let closed = i32::MAX - 9;
        assert!(has_open_fd(number..number + 1));
        assert!(!has_open_fd(closed..closed + 9) && !has_open_fd(0..0));
    }

    /// Uses 4 KiB of stack for each level.
    #[inline(never)]
    fn deep(level: usize) -> usize {
        let bytes = std::hint::black_box([level as u8; 4096]);
        let below = if level == 0 { 0 } else { deep(level - 1) };
        below + usize::from(bytes[level % 4096])
    }

    #[cfg(target_os = "linux")]
    fn resident() -> usize {
        let text = std::fs::read_to_string("/proc/thread-self/smaps").unwrap_or_default();
        let here = std::ptr::from_ref(&text) as usize;
        let mut is_here = false;
        for line in text.lines() {
            let range = line.split(' ').next().and_then(|range| range.split_once('-'));
            let number = |text| usize::from_str_radix(text, 16).ok();
            if let Some((Some(from), Some(to))) = range.map(|(from, to)| (number(from), number(to)))
            {
                is_here = (from..to).contains(&here);
            } else if let Some(rest) = line.strip_prefix("Rss:").filter(|_| is_here) {
                return rest.trim().trim_end_matches(" kB").parse().unwrap_or(0);
            }
        }
        0
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_stack_that_was_deep_is_given_back_and_goes_on_to_work() {
        let thread = std::thread::Builder::new().stack_size(1024 * 1024).spawn(|| {
            let kept = std::hint::black_box([7_u8; 1000]);
            let expected = deep(100);
            let before = resident();
            trim_stack();
            let after = resident();
            assert!(before > 400 && after < before - 300, "{before} and {after} kB");
            assert_eq!(deep(100), expected);
            assert!(kept.iter().all(|byte| *byte == 7));
        });
        thread.expect("a thread").join().expect("no panic");
    }
}

/// Stands in the place of glibc's function of this name in a static executable, and says that it is not
/// supported. Rust's standard library asks it for the bounds of the stack, to report "stack overflow"
/// instead of an invalid access when the process dies of one. glibc's own function parses
/// `/proc/self/maps` with `sscanf`, which would bring 90 KB of readers of numbers and of wide characters
/// with it.
#[cfg(all(target_os = "linux", target_env = "gnu", target_feature = "crt-static"))]
#[unsafe(no_mangle)]
extern "C" fn pthread_getattr_np(_: libc::pthread_t, _: *mut libc::pthread_attr_t) -> libc::c_int {
    libc::ENOSYS
}
