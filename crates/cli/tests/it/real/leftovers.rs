//! What an instance has made on this machine: processes, links, cgroups, files.

use super::Instance;
use super::instance::processes;
use std::collections::BTreeSet;
use std::path::Path;

#[derive(Debug, PartialEq, Eq)]
pub struct Inventory {
    guests: BTreeSet<String>,
    links: BTreeSet<String>,
    cgroups: BTreeSet<String>,
    files: BTreeSet<String>,
}

impl Inventory {
    /// Takes stock. Documents, logs, databases and caches of the instance itself are not guests'.
    pub fn of(instance: &Instance) -> Self {
        let id = instance.agent_instance();
        let mark = format!("perigee-{id}");
        let guests = processes().into_iter().flat_map(|(_, line)| line).filter(|w| w.contains(&mark)).collect();
        let names = |dir: &str| {
            let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
            entries.map(|e| e.file_name().to_string_lossy().into_owned()).collect::<Vec<_>>()
        };
        let mut cgroups = BTreeSet::new();
        walk(Path::new("/sys/fs/cgroup"), 5, &mut |path| {
            // The instance's own group may stay; a guest's may not.
            if path.to_string_lossy().contains(&format!("{mark}/")) {
                cgroups.insert(path.display().to_string());
            }
        });
        let mut files = BTreeSet::new();
        for root in [
            instance.path().join("agent/guests"),
            format!("/run/perigee/{id}").into(),
            instance.path().join("agent/run"),
        ] {
            walk(&root, 6, &mut |path| {
                files.insert(path.display().to_string());
            });
        }
        // Tests beside this one lay cables to hosts of their own.
        let is_cable = |name: &String| ["pgc", "pgo"].iter().any(|cable| name.starts_with(cable));
        let links = names("/sys/class/net").into_iter().filter(|name| !is_cable(name)).collect();
        Self { guests, links, cgroups, files }
    }
}

fn walk(root: &Path, depth: usize, seen: &mut impl FnMut(&Path)) {
    let entries = std::fs::read_dir(root).into_iter().flatten().flatten();
    for entry in entries.filter(|_| depth > 0) {
        seen(&entry.path());
        if entry.file_type().is_ok_and(|t| t.is_dir()) {
            walk(&entry.path(), depth - 1, seen);
        }
    }
}
