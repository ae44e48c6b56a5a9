//! Names the interface's version in the library, as the loader wants it.

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rustc-cdylib-link-arg=-Wl,-soname,libxtproxy.so.0");
}
