//! The C library's functions, behind ours.

use std::ffi::{CStr, c_char, c_int, c_uint, c_void};
use std::ptr;
use std::sync::atomic::{AtomicPtr, Ordering};

use libc::{mmsghdr, msghdr, socklen_t, ssize_t, timespec};

use crate::inside::fail;

/// A function of the next library that has it.
struct Symbol {
    name: &'static CStr,
    found: AtomicPtr<c_void>,
}

impl Symbol {
    const fn new(name: &'static CStr) -> Self {
        let found = AtomicPtr::new(ptr::null_mut());
        Self { name, found }
    }

    /// Null if no library has it.
    #[inline]
    fn address(&self) -> *mut c_void {
        let found = self.found.load(Ordering::Relaxed);
        if found.is_null() { self.find() } else { found }
    }

    #[cold]
    fn find(&self) -> *mut c_void {
        // SAFETY: the name ends with a zero.
        let found = unsafe { libc::dlsym(libc::RTLD_NEXT, self.name.as_ptr()) };
        self.found.store(found, Ordering::Relaxed);
        found
    }
}

/// Each function: the C library's, or ENOSYS if it has none. They are C-unwind because some can
/// end with their thread (`pthread_cancel`), which unwinds.
macro_rules! real {
    ($($symbol:ident $text:literal $name:ident($($arg:ident: $type:ty),*) -> $ret:ty;)*) => {
        $(
            static $symbol: Symbol = Symbol::new($text);

            /// # Safety
            /// As the function of the C library.
            #[inline]
            pub unsafe fn $name($($arg: $type),*) -> $ret {
                let found = $symbol.address();
                if found.is_null() {
                    return Answer::from_failure(fail(libc::ENOSYS));
                }
                // SAFETY: the C library's function of this name has this type.
                let call = unsafe {
                    std::mem::transmute::<*mut c_void, unsafe extern "C-unwind" fn($($type),*) -> $ret>(found)
                };
                // SAFETY: the caller answers for the arguments.
                unsafe { call($($arg),*) }
            }
        )*

        /// Looks all of them up: that can allocate, which calls in signal handlers must not.
        #[cfg(not(test))]
        pub fn find_all() {
            $($symbol.find();)*
        }
    };
}

real! {
    SETSOCKOPT c"setsockopt" setsockopt(fd: c_int, level: c_int, name: c_int, value: *const c_void, len: socklen_t) -> c_int;
    GETSOCKOPT c"getsockopt" getsockopt(fd: c_int, level: c_int, name: c_int, value: *mut c_void, len: *mut socklen_t) -> c_int;
    RECVMSG c"recvmsg" recvmsg(fd: c_int, message: *mut msghdr, flags: c_int) -> ssize_t;
    RECVMMSG c"recvmmsg" recvmmsg(fd: c_int, messages: *mut mmsghdr, count: c_uint, flags: c_int, timeout: *mut timespec) -> c_int;
    CLOSE c"close" close(fd: c_int) -> c_int;
    DUP2 c"dup2" dup2(from: c_int, to: c_int) -> c_int;
    DUP3 c"dup3" dup3(from: c_int, to: c_int, flags: c_int) -> c_int;
    CLOSE_RANGE c"close_range" close_range(first: c_uint, last: c_uint, flags: c_int) -> c_int;
    CLOSEFROM c"closefrom" closefrom(first: c_int) -> ();
    CHROOT c"chroot" chroot(path: *const c_char) -> c_int;
}

/// What such a function can return.
trait Answer {
    fn from_failure(minus_one: c_int) -> Self;
}

impl Answer for c_int {
    fn from_failure(minus_one: c_int) -> Self {
        minus_one
    }
}

impl Answer for ssize_t {
    fn from_failure(minus_one: c_int) -> Self {
        minus_one as Self
    }
}

impl Answer for () {
    fn from_failure(_: c_int) -> Self {}
}
