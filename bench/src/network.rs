//! N20: what the way of a guest's TCP through TAP, bridge and rules costs the host, beside a TAP alone. N20b: how
//! long 200 TAPs with their rules take to make and to take away.
//!
//! ```text
//!   guest ─ TAP ─ bridge, rules, NAT ─┐
//!                                     ├─ host ─ cable ─ world      each in a namespace of its own
//!   guest ─ TAP, routed ──────────────┘
//! ```

mod space;

use crate::Options;
use crate::numbers::Sample;
use crate::report::{Line, Report};
use anyhow::{Context as _, Result, ensure};
use nix::sys::resource::{UsageWho, getrusage};
use perigee_model::{Egress, GuestId, InstanceId};
use perigee_network::{Host, Member, Owner, Plan, Resolved, Subnet};
use space::{Guest, Space};
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};
use uuid::Uuid;

const RUNS: usize = 7;
const BYTES: u64 = 2 << 30;
const TAPS: u32 = 200;
const CHUNK: usize = 256 << 10;
const PORT: u16 = 5001;
/// A policy of some length; the world is its last place.
const POLICY: [&str; 3] = ["*.example.com:443", "10.1.0.0/16:5432", "93.184.216.34:5001"];
/// A bridge takes frames from a new port after a moment.
const REACHED_WITHIN: Duration = Duration::from_secs(10);
/// Linux counts processor time of threads in these (proc_pid_stat(5)).
const TICK: Duration = Duration::from_millis(10);

/// N20.
pub async fn run(options: &Options, report: &mut Report) -> Result<()> {
    let (runs, bytes) = if options.quick { (2, BYTES / 10) } else { (RUNS, BYTES) };
    let [ours, bare, rate] = tokio::task::spawn_blocking(move || compared(runs, bytes)).await??;
    report.line(Line::new("N20", "host CPU per GB, a bare TAP that is routed: the peer", &bare));
    let what = "host CPU per GB of a guest's TCP through TAP, bridge, rules and NAT";
    let remark = format!("{:.1} Gb/s", rate.spread().median_ms);
    let line = Line::new("N20", what, &ours).beside("a bare TAP", &bare).at_most_of_peer(1.15).remark(remark);
    report.line(line);
    let note = "the guest and its VMM are played by the bench, the same on both ways, and their CPU is in both numbers";
    report.note("N20", note);
    Ok(())
}

/// N20b.
pub async fn run_many(options: &Options, report: &mut Report) -> Result<()> {
    let runs = if options.quick { 1 } else { 5 };
    let [made, gone] = tokio::task::spawn_blocking(move || many(runs)).await??;
    let most = 5000.0;
    report.line(Line::new("N20b", format!("{TAPS} TAPs with their rules made"), &made).median_at_most(most));
    report.line(Line::new("N20b", format!("{TAPS} TAPs with their rules taken away"), &gone).median_at_most(most));
    Ok(())
}

/// CPU per GB in ms of ours and of the peer, and Gb/s of ours; the two ways take turns.
fn compared(runs: usize, bytes: u64) -> Result<[Sample; 3]> {
    let world = Space::new()?;
    let ways = [ours(&world)?, bare(&world)?];
    let listener = world.run(|| Ok(TcpListener::bind((Ipv4Addr::UNSPECIFIED, PORT))?))?;
    #[expect(clippy::cast_precision_loss, reason = "some GB")]
    let gigabytes = bytes as f64 / 1e9;
    let [mut cpus, mut rate] = [<[Sample; 2]>::default(), <[Sample; 2]>::default()];
    // The first of each finds the caches cold.
    for run in 0..=runs {
        for (index, way) in ways.iter().enumerate() {
            let (cpu, took) = sent(way, &listener, bytes)?;
            if run > 0 {
                cpus[index].push_millis(cpu.as_secs_f64() * 1e3 / gigabytes);
                rate[index].push_number(gigabytes * 8.0 / took.as_secs_f64());
            }
        }
    }
    let ([ours, bare], [rate, _]) = (cpus, rate);
    Ok([ours, bare, rate])
}

/// A host with one guest, and where that guest finds the world.
struct Way {
    guest: Guest,
    world: SocketAddr,
    /// It lives as long as its guest needs it.
    _host: Space,
}

/// By TAP, bridge, rules and NAT, as the agent makes them.
fn ours(world: &Space) -> Result<Way> {
    let host = Space::new()?;
    host.cable("uplink", world, "ours")?;
    host.tool("ip", "addr add 93.184.216.1/24 dev uplink")?;
    world.tool("ip", "addr add 93.184.216.34/24 dev ours")?;
    let plan = plan(1)?;
    host.block_on(|| async { Ok(opened()?.bring_about(&plan, Resolved::default()).await.map(drop)?) })?;
    let one = plan.members().next().context("a guest")?;
    let (mac, address, gateway) = (one.mac().to_string(), one.address.to_string(), plan.subnet().gateway().to_string());
    let guest = Guest::start(&host, plan.tap(one).as_str(), &mac, &address, &gateway)?;
    Ok(Way { guest, world: ([93, 184, 216, 34], PORT).into(), _host: host })
}

/// By a TAP alone, that is routed, on a host without any rules.
fn bare(world: &Space) -> Result<Way> {
    let host = Space::new()?;
    host.cable("uplink", world, "bare")?;
    for words in [
        "addr add 198.51.100.1/24 dev uplink",
        "tuntap add dev bare mode tap vnet_hdr",
        "addr add 192.0.2.1/24 dev bare",
        "link set dev bare up",
    ] {
        host.tool("ip", words)?;
    }
    host.run(|| Ok(std::fs::write("/proc/sys/net/ipv4/ip_forward", "1")?))?;
    world.tool("ip", "addr add 198.51.100.34/24 dev bare")?;
    world.tool("ip", "route add 192.0.2.0/24 via 198.51.100.1")?;
    let guest = Guest::start(&host, "bare", "52:54:00:00:00:01", "192.0.2.2", "192.0.2.1")?;
    Ok(Way { guest, world: ([198, 51, 100, 34], PORT).into(), _host: host })
}

/// A guest sends so much to the world: the CPU that the host used, and the time.
fn sent(way: &Way, listener: &TcpListener, bytes: u64) -> Result<(Duration, Duration)> {
    let began = Instant::now();
    let mut near = loop {
        match way.guest.space.run(|| Ok(TcpStream::connect_timeout(&way.world, Duration::from_secs(1))))? {
            Ok(stream) => break stream,
            Err(error) => ensure!(began.elapsed() < REACHED_WITHIN, "the world is not reached: {error}"),
        }
    };
    let (mut far, _) = listener.accept()?;
    let (before, began) = (cpu()?, Instant::now());
    let read = std::thread::spawn(move || -> Result<u64> {
        let (mut chunk, mut got) = (vec![0; CHUNK], 0);
        loop {
            match far.read(&mut chunk)? {
                0 => return Ok(got),
                length => got += length as u64,
            }
        }
    });
    let (chunk, mut left) = (vec![7; CHUNK], bytes);
    while left > 0 {
        let length = chunk.len().min(usize::try_from(left)?);
        near.write_all(&chunk[..length])?;
        left -= length as u64;
    }
    drop(near);
    let got = read.join().map_err(|_| anyhow::anyhow!("the reader panicked"))??;
    ensure!(got == bytes, "{got} of {bytes} bytes arrived");
    Ok((cpu()?.saturating_sub(before), began.elapsed()))
}

/// Of this process, the system calls in which frames go their way included, and of the kernel's threads that take
/// what is left over.
fn cpu() -> Result<Duration> {
    let usage = getrusage(UsageWho::RUSAGE_SELF)?;
    let mut used = Duration::ZERO;
    for time in [usage.user_time(), usage.system_time()] {
        used += Duration::from_micros(u64::try_from(time.tv_sec() * 1_000_000 + time.tv_usec())?);
    }
    for entry in std::fs::read_dir("/proc")?.flatten() {
        let stat = std::fs::read_to_string(entry.path().join("stat")).unwrap_or_default();
        let Some((name, rest)) = stat.rsplit_once(')') else { continue };
        if name.contains("(ksoftirqd/") {
            let ticks = rest.split_whitespace().skip(11).take(2).filter_map(|ticks| ticks.parse::<u32>().ok());
            used += TICK * ticks.sum::<u32>();
        }
    }
    Ok(used)
}

fn many(runs: usize) -> Result<[Sample; 2]> {
    let plan = plan(TAPS)?;
    let [mut made, mut gone] = <[Sample; 2]>::default();
    for _ in 0..runs {
        let host = Space::new()?;
        let (up, down) = host.block_on(|| async {
            let host = opened()?;
            let began = Instant::now();
            host.bring_about(&plan, Resolved::default()).await?;
            let up = began.elapsed();
            ensure!(host.look().await?.taps.len() == TAPS as usize, "not all TAPs are there");
            let began = Instant::now();
            host.take_away().await?;
            Ok((up, began.elapsed()))
        })?;
        made.push(up);
        gone.push(down);
    }
    Ok([made, gone])
}

fn instance() -> InstanceId {
    InstanceId::from_bits(0xbec4)
}

fn opened() -> Result<Host> {
    Ok(Host::open(&instance())?)
}

/// So many guests with a policy of some length, each on the network.
fn plan(guests: u32) -> Result<Plan> {
    let places: Vec<_> = POLICY.iter().map(|place| (*place).to_owned()).collect();
    let egress = Egress::parse(&places)?;
    let subnet = Subnet::choose(None, &[])?;
    let first = u32::from(subnet.gateway());
    let member = |number: u32| Member {
        guest: GuestId::new(Uuid::from_u128(number.into())),
        address: Ipv4Addr::from(first + number),
        owner: Owner { uid: 0, gid: 0 },
        up: true,
        egress: egress.clone(),
        egress6: None,
        host: Vec::new(),
        forwards: Vec::new(),
    };
    Ok(Plan::new(&instance(), subnet, (1..=guests).map(member).collect())?)
}
