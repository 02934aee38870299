//! `perigee up --sim`: played hosts beside a real one.

use super::Instance;
use serde_json::Value;

const HOSTS: usize = 5;

/// The played hosts that are connected and measured, by id.
fn played(instance: &Instance) -> Vec<String> {
    let hosts = instance.json(&["host", "list"]);
    let is_played = |host: &&Value| host["labels"]["sim"] == "true" && host["load"]["measured_at"].is_string();
    let connected = |host: &&Value| host["status"] == "connected";
    let all = hosts.as_array().unwrap().iter().filter(is_played).filter(connected);
    let mut ids: Vec<String> = all.map(|host| host["id"].as_str().unwrap().to_owned()).collect();
    ids.sort();
    ids
}

fn up(instance: &Instance) -> Vec<String> {
    instance.perigee(&["up", "--detach", "--sim", &HOSTS.to_string()]).fine();
    instance.until("played hosts that are measured", || Some(played(instance)).filter(|all| all.len() == HOSTS))
}

#[test]
fn real_fleet_joins_once_is_measured_and_ends_with_the_rest() {
    let instance = Instance::empty();
    let first = up(&instance);
    let query = "count(perigee_host_cpu_usage_ratio{host=~\"sim-.*\"})";
    let count = instance.json(&["metrics", "query", query]);
    assert_eq!(count[0]["value"], HOSTS.to_string(), "{count}");
    let list = instance.json(&["host", "list"]);
    let drivers = |host: &Value| host["inventory"]["drivers"].as_array().unwrap().len();
    let of_played = list.as_array().unwrap().iter().filter(|host| host["labels"]["sim"] == "true").map(drivers);
    assert_eq!(of_played.sum::<usize>(), 0, "nothing can be placed on a host that is played");
    instance.perigee(&["down"]).fine();
    assert_eq!(instance.pids("perigee-sim"), Vec::<i32>::new());
    assert_eq!(up(&instance), first, "the same hosts come back; none joins again");
}
