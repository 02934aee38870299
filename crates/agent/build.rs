//! How the agent is linked.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    // What the loader has to relocate, packed: half a megabyte less of it in memory on every host. glibc knows the
    // form since 2.36 (Debian 12).
    if std::env::var("CARGO_CFG_TARGET_ENV").is_ok_and(|env| env == "gnu") {
        println!("cargo::rustc-link-arg-bins=-Wl,-z,pack-relative-relocs");
    }
}
