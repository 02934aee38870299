//! Killed anywhere, the next one goes on, or leaves nothing.

use crate::ns::Ns;
use crate::world::{World, list, list6, member};
use perigee_model::InstanceId;
use perigee_network::{Egress, Forward, Member, Plan, Protocol, Resolved, Step, Subnet, steps};
use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Command, Stdio};

const OPEN: Resolved<'_> = Resolved { held: &[], answered: true };

fn some(lasts: std::ops::Range<u8>) -> Vec<Member> {
    let forward = |last: u8| Forward { protocol: Protocol::Tcp, host_port: 8000 + u16::from(last), guest_port: 80 };
    let six = |last: u8| last.is_multiple_of(3).then(|| list6("2606:4700::/32:443 a.com:443"));
    let one = |last| Member {
        forwards: vec![forward(last)],
        egress6: six(last),
        ..member(last, list("1.1.1.1:443 a.com:443"))
    };
    lasts.map(one).collect()
}

/// All that is to be done for a plan, or for none.
fn to_do(world: &World, plan: Option<&Plan>) -> Vec<Step> {
    let names = world.plan(vec![]);
    let found = world.with(|host| async move { host.look().await }).unwrap();
    steps(plan.map(|plan| (plan, OPEN)), names.names(), &found)
}

fn perform(world: &World, steps: &[Step]) {
    world.with(|host| async move {
        for step in steps {
            host.perform(step).await.unwrap();
        }
    });
}

#[test]
fn between_any_two_steps_the_next_one_goes_on_or_leaves_nothing() {
    let world = World::new();
    let before = world.host.inventory();
    let (one, two) = (world.plan(some(2..4)), world.plan(some(3..5)));
    let changes = [(None, Some(&one)), (Some(&one), Some(&two)), (Some(&two), None)];
    for (from, to) in changes {
        let reach = |plan: Option<&Plan>| perform(&world, &to_do(&world, plan));
        reach(from);
        let count = to_do(&world, to).len();
        assert!(count > 1, "{count}");
        for killed_after in 0..count {
            // Leaves nothing.
            reach(from);
            // A switch of the kernel that was set stays: the second time there may be less to do.
            let first = |todo: &[Step]| perform(&world, &todo[..killed_after.min(todo.len())]);
            first(&to_do(&world, to));
            reach(None);
            assert_eq!(world.host.inventory(), before, "{killed_after}");
            // Goes on; what is done twice does no harm.
            reach(from);
            let todo = to_do(&world, to);
            first(&todo);
            first(&todo);
            reach(to);
            assert!(to_do(&world, to).len() <= 1, "{:?}", to_do(&world, to));
        }
        reach(None);
    }
    assert_eq!(world.host.inventory(), before);
}

/// Changes from one plan to another and to nothing, for ever; says each step before it is done.
#[test]
#[ignore = "is run, and killed, by the test below"]
fn one_that_is_killed() {
    let world = World::of(Ns::of_this_thread());
    let plans = [Some(world.plan(some(2..12))), Some(world.plan(some(7..17))), None];
    for plan in plans.iter().cycle() {
        let todo = to_do(&world, plan.as_ref());
        for step in todo {
            writeln!(std::io::stdout(), "step").unwrap();
            perform(&world, &[step]);
        }
    }
}

#[test]
fn kill_9_leaves_nothing_that_is_not_found() {
    let world = World::new();
    let before = world.host.inventory();
    let plan = world.plan(some(2..12));
    let whole = |world: &World| {
        perform(world, &to_do(world, Some(&plan)));
        assert_eq!(to_do(world, Some(&plan)).len(), 1);
    };
    // A whole round of the other has some 160 steps.
    for killed_at in (1..160).step_by(13) {
        let mut other = world.host.run(|| {
            let mut command = Command::new(std::env::current_exe().unwrap());
            command.args(["--exact", "kill::one_that_is_killed", "--ignored", "--nocapture"]);
            command.stdout(Stdio::piped()).spawn().unwrap()
        });
        let lines = BufReader::new(other.stdout.take().unwrap()).lines().map(Result::unwrap);
        let said = lines.filter(|line| line.ends_with("step")).take(killed_at).count();
        other.kill().unwrap();
        other.wait().unwrap();
        assert_eq!(said, killed_at, "it ended by itself");
        if killed_at % 2 == 0 {
            whole(&world);
        }
        perform(&world, &to_do(&world, None));
        assert_eq!(world.host.inventory(), before, "{killed_at}");
    }
}

#[test]
fn what_another_instance_made_stays() {
    let world = World::new();
    let mut other = World::of(world.host.clone());
    other.instance = InstanceId::from_bits(9);
    let theirs = Plan::new(
        &other.instance,
        Subnet::choose(None, &[world.plan(vec![]).subnet().block()]).unwrap(),
        vec![Member { address: "172.16.1.2".parse().unwrap(), ..member(2, Egress::All) }],
    )
    .unwrap();
    other.bring_about(&theirs);
    let before = world.host.inventory();
    perform(&world, &to_do(&world, Some(&world.plan(some(2..4)))));
    perform(&world, &to_do(&world, None));
    assert_eq!(world.host.inventory(), before);
    assert!(before.contains("172.16.1.1/24"), "{before}");
}
