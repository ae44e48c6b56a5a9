//! Compiles the BPF programs; the objects become part of the library.

use std::env;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use libbpf_cargo::SkeletonBuilder;

fn main() -> Result<()> {
    println!("cargo:rerun-if-changed=bpf");
    let out = PathBuf::from(env::var_os("OUT_DIR").context("cargo sets OUT_DIR")?);
    let includes = include_folders()?;
    for name in ["port", "host", "sockets", "capture"] {
        SkeletonBuilder::new()
            .source(format!("bpf/{name}.bpf.c"))
            .obj(out.join(format!("{name}.bpf.o")))
            .clang_args(
                ["-Wall", "-Wextra", "-Werror"]
                    .map(String::from)
                    .into_iter()
                    .chain(includes.iter().map(|folder| format!("-I{folder}"))),
            )
            .build()
            .with_context(|| {
                format!(
                    "cannot compile bpf/{name}.bpf.c: are clang, libc6-dev and linux-libc-dev installed?"
                )
            })?;
    }
    Ok(())
}

/// The helpers' headers come from the libbpf that is linked in; `asm/` is where
/// Debian's multiarch puts it, which clang does not search for the BPF target.
fn include_folders() -> Result<Vec<String>> {
    let libbpf = env::var("DEP_BPF_INCLUDE").context("libbpf-sys names its headers")?;
    let arch = env::var("CARGO_CFG_TARGET_ARCH").context("cargo names the target")?;
    let multiarch = format!("/usr/include/{arch}-linux-gnu");
    let mut folders = vec![libbpf];
    if Path::new(&multiarch).is_dir() {
        folders.push(multiarch);
    }
    Ok(folders)
}
