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

/// Descriptors that are asked about at once: few, as a limit of open ones is a limit of that, too.
#[cfg(target_os = "linux")]
pub const POLL_BATCH: usize = 64;

/// Whether any of these descriptors is open; also where the system does not tell. More of them than
/// [`POLL_BATCH`] are not asked about.
#[cfg(target_os = "linux")]
#[must_use]
pub fn has_open_fd(numbers: std::ops::Range<std::os::fd::RawFd>) -> bool {
    let mut poll_fds = [libc::pollfd { fd: -1, events: 0, revents: 0 }; POLL_BATCH];
    let mut count = 0;
    for (place, number) in poll_fds.iter_mut().zip(numbers) {
        place.fd = number;
        count += 1;
    }
    // SAFETY: the call reads and writes `count` entries, and there are as many; it takes numbers only,
    // and marks those that stand for nothing.
    let closed = unsafe { libc::poll(poll_fds.as_mut_ptr(), count, 0) };
    let is_open = |it: &libc::pollfd| it.fd >= 0 && it.revents & libc::POLLNVAL == 0;
    closed < 0 || poll_fds.iter().any(is_open)
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
    let result =
        unsafe { libc::getsockopt(fd, libc::IPPROTO_TCP, libc::TCP_INFO, into, &raw mut length) };
    (result == 0).then_some((info, length as usize))
}

/// Lets glibc's allocator give what was freed back to the system: blocks above a size are mapped each
/// on its own, whatever sizes were freed before, and the ends of its arenas are cut. Without, a crowd
/// or a few large bodies leave the process large for good. Other allocators are left as they are.
pub fn configure_allocator() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    {
        /// Larger than most requests and answers, which are not to pay for it.
        const MMAP_THRESHOLD: libc::c_int = 256 * 1024;
        const TRIM_THRESHOLD: libc::c_int = 512 * 1024;
        for (option, value) in
            [(libc::M_MMAP_THRESHOLD, MMAP_THRESHOLD), (libc::M_TRIM_THRESHOLD, TRIM_THRESHOLD)]
        {
            // SAFETY: the call takes two numbers, and refuses what it does not know.
            let _ = unsafe { libc::mallopt(option, value) };
        }
    }
}

/// Asks for large pages under whatever part of `room` such pages fit into, so that the first touch of
/// each costs no more than that of a small one. Elsewhere, and where the system has none, nothing changes.
pub fn advise_huge_pages(buffer: &mut [u8]) {
    #[cfg(target_os = "linux")]
    {
        /// Bytes of a large page; a multiple of any small one.
        const HUGE_PAGE: usize = 2 * 1024 * 1024;
        let ahead = buffer.as_ptr().align_offset(HUGE_PAGE);
        let Some(rest) = buffer.get_mut(ahead..) else { return };
        let length = rest.len() / HUGE_PAGE * HUGE_PAGE;
        if length > 0 {
            // SAFETY: the range lies within `rest`, which is borrowed for us alone, and the advice
            // changes nothing of what is in it.
            let _ = unsafe { libc::madvise(rest.as_mut_ptr().cast(), length, libc::MADV_HUGEPAGE) };
        }
    }
    #[cfg(not(target_os = "linux"))]
    let _ = buffer;
}

/// Gives back what this thread's stack has used below the caller's frame, which is rebuilt, as zeros,
/// where it is used again. To be called by whoever goes on for long: a call that is over may have gone
/// deep.
#[inline(never)] // Its own frame tells where the others end.
pub fn trim_stack() {
    #[cfg(target_os = "linux")]
    {
        /// Bytes below this frame that are left alone: for the calls in here, and for the next ones.
        const MARGIN_BYTES: usize = 2 * 1024;
        const PAGE: usize = 4096;
        let marker = 0_u8;
        let here = &raw const marker as usize;
        let Some((lowest, end)) = stack_bounds() else { return };
        let above = here.saturating_sub(MARGIN_BYTES) / PAGE * PAGE;
        if lowest % PAGE == 0 && lowest < above && here < end {
            // SAFETY: the range lies within this thread's own stack and wholly below the frames in use,
            // where nothing is alive; no other thread uses it.
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
    // SAFETY: the first call fills the attributes where it succeeds; only then are they read, and
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
    fn a_room_stays_as_it_is_whatever_pages_it_is_on() {
        for length in [0, 1, 5000, 2 << 20, 7_654_321] {
            let mut room: Vec<u8> = (0..=255).cycle().take(length).collect();
            let before = room.clone();
            advise_huge_pages(&mut room);
            assert!(room == before, "{length}");
        }
    }

    /// Uses some of the stack, and tells what is left of it.
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
