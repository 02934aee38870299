use super::*;
use std::process::Command as Process;

/// An unpacked kernel package with empty modules, and two programs that look static.
struct Sample {
    home: tempfile::TempDir,
    build: BaseBuild,
}

const MODULES: &[&str] = &[
    "virtio_ring",
    "virtio",
    "virtio_mmio",
    "virtio_blk",
    "failover",
    "net_failover",
    "virtio_net",
    "vsock",
    "vmw_vsock_virtio_transport_common",
    "vmw_vsock_virtio_transport",
];

impl Sample {
    fn new() -> Self {
        let home = tempfile::tempdir().unwrap();
        let package = home.path().join("package");
        let kernel = package.join("lib/modules/6.1.0-test/kernel/drivers");
        std::fs::create_dir_all(package.join("boot")).unwrap();
        std::fs::create_dir_all(&kernel).unwrap();
        std::fs::write(package.join("boot/vmlinuz-6.1.0-test"), "a kernel").unwrap();
        for module in MODULES {
            std::fs::write(kernel.join(format!("{module}.ko")), module).unwrap();
        }
        // virtio_console is built in, virtio_rng is compressed and spelt with a dash
        std::fs::write(
            kernel.parent().unwrap().parent().unwrap().join("modules.builtin"),
            "kernel/virtio_console.ko\n",
        )
        .unwrap();
        std::fs::write(kernel.join("virtio-rng.ko"), "rng").unwrap();
        assert!(Process::new("xz").arg(kernel.join("virtio-rng.ko")).status().unwrap().success());
        let guest_binary = home.path().join("guest");
        std::fs::copy("/bin/busybox", &guest_binary).expect("busybox-static: scripts/setup installs it");
        let mut build = BaseBuild::new(home.path().join("work"), guest_binary);
        build.kernel = KernelSource::Unpacked(package);
        Self { home, build }
    }
    async fn built(&self) -> BuiltImage {
        build_base(&self.build, &mut |_| {}).await.unwrap()
    }
    fn modules(&self) -> PathBuf {
        self.home.path().join("package/lib/modules/6.1.0-test")
    }
}

#[tokio::test]
async fn the_same_inputs_are_built_once_and_give_the_same_digests_elsewhere() {
    let sample = Sample::new();
    let mut seen = Vec::new();
    let first = build_base(&sample.build, &mut |progress| seen.push(progress.step)).await.unwrap();
    assert_eq!(seen, STEPS);
    assert!(!first.cached);
    assert_eq!((first.arch.as_str(), first.kernel_release.as_str()), ("x86_64", "6.1.0-test"));
    let roles: Vec<_> = first.parts.iter().map(|part| part.part.role).collect();
    assert_eq!(roles, [PartRole::Kernel, PartRole::Initrd]);

    let second = sample.built().await;
    assert!(second.cached);
    assert_eq!(second.parts, first.parts);

    let other = BaseBuild { work: sample.home.path().join("other"), ..sample.build.clone() };
    let elsewhere = build_base(&other, &mut |_| {}).await.unwrap();
    let digests = |image: &BuiltImage| image.parts.iter().map(|part| part.part.clone()).collect::<Vec<_>>();
    assert_eq!(digests(&elsewhere), digests(&first));
}

#[tokio::test]
async fn another_guest_binary_is_another_image() {
    let sample = Sample::new();
    let first = sample.built().await;
    let mut bytes = std::fs::read(&sample.build.guest_binary).unwrap();
    bytes.push(0);
    std::fs::write(&sample.build.guest_binary, bytes).unwrap();
    let second = sample.built().await;
    assert_ne!(first.parts[1].part.digest, second.parts[1].part.digest);
    assert_eq!(first.parts[0].part.digest, second.parts[0].part.digest);
}

#[tokio::test]
async fn the_root_holds_what_a_guest_needs() {
    let sample = Sample::new();
    let image = sample.built().await;
    let root = sample.home.path().join("root");
    std::fs::create_dir(&root).unwrap();
    let initrd = std::fs::File::open(&image.parts[1].path).unwrap();
    let arguments = ["-i", "--quiet", "--no-preserve-owner", "-f", "dev/*"];
    assert!(Process::new("cpio").args(arguments).stdin(initrd).current_dir(&root).status().unwrap().success());
    let list = std::fs::read_to_string(root.join("etc/perigee/modules")).unwrap();
    let expected: String =
        MODULES.iter().chain(&["virtio_rng"]).map(|name| format!("/lib/modules/{name}.ko\n")).collect();
    assert_eq!(list, expected);
    assert_eq!(std::fs::read_to_string(root.join("lib/modules/virtio_rng.ko")).unwrap(), "rng");
    let said = Process::new(root.join("bin/sh")).args(["-c", "echo from the root"]).output().unwrap();
    assert_eq!(said.stdout, b"from the root\n");
    assert_eq!(std::fs::read(root.join("init")).unwrap(), std::fs::read(&sample.build.guest_binary).unwrap());
}

#[tokio::test]
async fn what_a_killed_build_left_goes_and_what_rotted_is_built_again() {
    let sample = Sample::new();
    let first = sample.built().await;
    let left = sample.build.work.join("temp.0");
    std::fs::create_dir_all(left.join("tree")).unwrap();
    std::fs::write(&first.parts[0].path, "rotten").unwrap();
    std::fs::write(&first.parts[1].path, "rotten").unwrap();
    let second = sample.built().await;
    assert!(!left.exists());
    assert_eq!(std::fs::read(&second.parts[0].path).unwrap(), b"a kernel");
    assert!(!second.cached);
    assert_eq!(second.parts, first.parts);
}

#[tokio::test]
async fn each_refusal_says_what_would_help() {
    let mut sample = Sample::new();
    let refused = async |build: &BaseBuild| build_base(build, &mut |_| {}).await.unwrap_err().to_string();
    let good = sample.build.clone();

    sample.build.busybox = sample.home.path().join("none");
    assert!(refused(&sample.build).await.contains("apt-get install busybox-static"));
    sample.build = BaseBuild { guest_binary: sample.home.path().join("none"), ..good.clone() };
    assert!(refused(&sample.build).await.contains("cargo xtask guest"));
    sample.build = BaseBuild { guest_binary: "/bin/bash".into(), ..good.clone() };
    assert!(refused(&sample.build).await.contains("is not a static"));
    sample.build = BaseBuild { kernel: KernelSource::Unpacked("/proc".into()), ..good.clone() };
    assert!(refused(&sample.build).await.contains("vmlinuz-"));
    std::fs::remove_file(sample.modules().join("kernel/drivers/vsock.ko")).unwrap();
    assert!(refused(&good).await.contains("it has no module vsock"));
}

#[tokio::test]
async fn two_builds_in_one_directory_take_turns() {
    let sample = Sample::new();
    let (first, second) = tokio::join!(sample.built(), sample.built());
    assert_eq!(first.parts, second.parts);
    assert!(first.cached != second.cached);
}
