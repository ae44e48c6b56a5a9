//! How the library is linked.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    // Its name, and that it is never unloaded: the program's calls go through it.
    println!("cargo::rustc-cdylib-link-arg=-Wl,-soname,libxtproxy_preload.so");
    println!("cargo::rustc-cdylib-link-arg=-Wl,-z,nodelete");
}
