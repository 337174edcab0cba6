//! Real programs under load, from before the checkpoint until after the restore.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use test_fixtures::Image;

use super::kernel::{MAPPED, with_map};
use super::network::{BY_PATH, Network};
use super::{Expected, Row};
use crate::client::{Client, ask_line, connect_lines, same};
use crate::container::{How, Scene};
use crate::failure::{At, Failure, Result};

pub(crate) const ROWS: &[Row] = &[
    Row {
        name: "Redis",
        looked_at: "each write that was acknowledged, to three clients on connections that last",
        expected: Expected::GoesOn,
        run: redis,
    },
    Row {
        name: "PostgreSQL, in a user namespace",
        looked_at: "pgbench beside it, on four connections that last: no transaction failed, each is in the history, all sums are equal",
        expected: Expected::GoesOn,
        run: postgres,
    },
    Row {
        name: "nginx",
        looked_at: "each answer to two clients on connections that last, byte by byte",
        expected: Expected::GoesOn,
        run: nginx,
    },
    Row {
        name: "Python",
        looked_at: "threads, two clients' connections, and dictionaries that only ever grow",
        expected: Expected::GoesOn,
        run: python,
    },
];

/// Starts a client's thread as soon as the server is there; each has a number of its own.
fn clients(scene: Scene<'_>, count: u64, start: fn(Scene<'_>, u64) -> Result<Client>) -> Result<Vec<Client>> {
    (0..count).map(|own| start(scene, own)).collect()
}

fn end(clients: Vec<Client>) -> Result<Vec<u64>> {
    clients.into_iter().map(Client::end).collect()
}

fn redis(scene: Scene<'_>) -> Result {
    let network = Network::new(scene)?;
    let line = ["redis-server", "--protected-mode", "no", "--save", "", "--dir", "/tmp"];
    let mut container = scene.run(Image::Programs, &BY_PATH, &line)?;
    let clients = clients(scene, 3, |scene, own| {
        let ask = move |stream: &mut BufReader<TcpStream>, number: u64| {
            same("+OK", &ask_line(stream, &format!("SET {own}:{number} {}\r\n", number * 7))?)
        };
        Client::start(&scene.world.one.node, || connect_lines(6379), ask)
    })?;
    network.moves(&mut container)?;
    for (own, written) in (0..).zip(end(clients)?) {
        let reader = move |stream: &mut BufReader<TcpStream>, number: u64| {
            // All of what was written, at one go, and then the last again and again.
            for number in if number == 1 { 1..=written } else { written..=written } {
                let length = ask_line(stream, &format!("GET {own}:{number}\r\n"))?;
                let mut value = String::new();
                stream.read_line(&mut value)?;
                let expected = (number * 7).to_string();
                same((format!("${}", expected.len()), expected), (length, value.trim_end().to_owned()))?;
            }
            Ok(())
        };
        Client::start(&scene.world.one.node, || connect_lines(6379), reader)?.end()?;
    }
    Ok(())
}

fn postgres(scene: Scene<'_>) -> Result {
    let mut container = scene.run(Image::Programs, &MAPPED, &["sh", "/srv/postgres.sh"])?;
    container.wait("pgbench runs", || container.read("/started"))?;
    // In the midst of it.
    std::thread::sleep(Duration::from_millis(500));
    if container.read("/done").is_some() {
        return Err(Failure::at(At::Scene, "pgbench has ended before the checkpoint"));
    }
    with_map(scene, Image::Programs, || container.moves(How::default()))?;
    container.wait("pgbench ends", || container.read("/done"))?;
    let [report, sums] = ["/report", "/sums"].map(|path| container.read(path).unwrap_or_default());
    let number = |line: &str| {
        let rest = report.lines().find_map(|found| found.strip_prefix(line))?;
        rest.trim().split(['/', ' ']).next()?.parse::<u64>().ok()
    };
    let processed = number("number of transactions actually processed:");
    let failed = number("number of failed transactions:");
    let sums: Vec<&str> = sums.split_whitespace().collect();
    match sums.as_slice() {
        ["4000", sum, rest @ ..] if (processed, failed) == (Some(4000), Some(0)) && rest == [*sum; 3] => Ok(()),
        _ => Err(Failure::after(format!("pgbench says {report:?}, and then there is {sums:?}"))),
    }
}

fn nginx(scene: Scene<'_>) -> Result {
    let network = Network::new(scene)?;
    let script = "mkdir -p /srv/www; head -c 300000 /dev/urandom >/srv/www/data; exec nginx";
    let mut container = scene.run(Image::Programs, &BY_PATH, &["sh", "-c", script])?;
    let clients = clients(scene, 2, |scene, _| {
        let connect = || Ok((connect_lines(80)?, None));
        let ask = |(stream, first): &mut (BufReader<TcpStream>, Option<Vec<u8>>), _| {
            let body = fetch(stream)?;
            same(300_000, body.len())?;
            if *first.get_or_insert_with(|| body.clone()) == body {
                Ok(())
            } else {
                Err("another body than the first".into())
            }
        };
        Client::start(&scene.world.one.node, connect, ask)
    })?;
    network.moves(&mut container)?;
    end(clients).map(drop)
}

/// The body of `/data`.
fn fetch(stream: &mut BufReader<TcpStream>) -> std::io::Result<Vec<u8>> {
    stream.get_mut().write_all(b"GET /data HTTP/1.1\r\nHost: web\r\n\r\n")?;
    let mut length = 0;
    loop {
        let mut line = String::new();
        if stream.read_line(&mut line)? == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        if let Some(value) = line.strip_prefix("Content-Length:") {
            length = value.trim().parse().unwrap_or(0);
        }
        if line == "\r\n" {
            break;
        }
    }
    let mut body = vec![0; length];
    stream.read_exact(&mut body)?;
    Ok(body)
}

fn python(scene: Scene<'_>) -> Result {
    let network = Network::new(scene)?;
    let mut container = scene.run(Image::Programs, &BY_PATH, &["python3", "/srv/server.py"])?;
    // One alone tells keys, so that it knows their number and sum; the other tells the same one again and again.
    let clients = clients(scene, 2, |scene, own| {
        let ask = move |(stream, grown): &mut (BufReader<TcpStream>, u64), number: u64| {
            let (key, value) = if own == 0 { (number, number) } else { (1, 1) };
            let answer = ask_line(stream, &format!("{key} {value}\n"))?;
            let fields: Vec<u64> = answer.split(' ').filter_map(|field| field.parse().ok()).collect();
            let [keys, sum, size] = fields[..] else { return Err(format!("it answers {answer:?}").into()) };
            if size < *grown || keys * (keys + 1) / 2 != sum || (own == 0 && keys != number) {
                return Err(format!("it answers {answer:?} to {key}, after a size of {grown}").into());
            }
            *grown = size;
            Ok(())
        };
        Client::start(&scene.world.one.node, || Ok((connect_lines(7000)?, 0)), ask)
    })?;
    network.moves(&mut container)?;
    end(clients).map(drop)
}
