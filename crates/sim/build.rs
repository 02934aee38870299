//! Tells the compiler that `tokio_unstable` is a known flag: with it tokio's own dice are seeded.
fn main() {
    println!("cargo::rustc-check-cfg=cfg(tokio_unstable)");
    println!("cargo::rerun-if-changed=build.rs");
}
