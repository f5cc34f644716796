//! Hostile and broken clients: their session ends, nothing else notices.

use std::time::{Duration, Instant};

use crate::support::wire::{Wire, bind, execute, message, packet, parse, query, startup, sync, transcript, unnamed};
use crate::support::{Env, Route, Setup, T1};

#[tokio::test(flavor = "multi_thread")]
async fn broken_startup_packets() {
    let env = Env::new(Route::Direct).await;
    let rows: &[&[u8]] = &[
        b"\xff\xff\xff\xff",
        b"\0\0\0\x03",
        b"\0\xff\xff\xff",
        b"GET / HTTP/1.1\r\n\r\n",
        b"\x16\x03\x01\x02\0\x01",
        b"\0\0\0\x0c\0\x03\0\0user",
        // An encryption request with plaintext behind it.
        b"\0\0\0\x08\x04\xd2\x16\x2f\0\0\0\x08\0\x03\0\0",
    ];
    for row in rows {
        let mut wire = Wire::dial(env.port);
        wire.send(row);
        assert!(wire.next().is_none(), "{row:?}");
    }
    // A second SSLRequest.
    let mut wire = Wire::dial(env.port);
    wire.send(&packet(&80_877_103_u32.to_be_bytes()));
    assert_eq!(wire.byte(), b'N');
    wire.send(&packet(&80_877_103_u32.to_be_bytes()));
    assert!(wire.next().is_none());
    assert!(env.metric("turnstile_protocol_violations_total") > 6.5);
    // Protocol 2: the server says no in its own words.
    let mut wire = Wire::dial(env.port);
    wire.send(&packet(b"\0\x02\0\0user\0database\0"));
    let refusal = wire.rest();
    assert!(String::from_utf8_lossy(&refusal).contains("unsupported frontend protocol"), "{refusal:?}");
    env.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn broken_messages_get_the_servers_words() {
    let env = Env::new(Route::Direct).await;
    let mut witness = Wire::login(env.port);
    let rows: &[&[u8]] = &[b"Q\xff\xff\xff\xff", b"Q\0\0\0\x03", b"S\0\x01\x86\xa0", b"!\0\0\0\x04"];
    for bytes in rows {
        let mut answers = Vec::new();
        for port in [env.cluster.port(), env.port] {
            let mut wire = Wire::login(port);
            wire.send(bytes);
            answers.push(transcript(&wire.until_ready()));
        }
        assert_eq!(answers[0], answers[1], "{bytes:?}");
        assert!(answers[0].starts_with("E(08P01") || answers[0].is_empty(), "{bytes:?} {answers:?}");
    }
    // Half a message, then silence, then the end.
    let mut wire = Wire::login(env.port);
    wire.send(b"Q\0\0\0\xffSELECT");
    wire.finish_sending();
    assert!(wire.until_ready().is_empty());
    // Garbage inside of well-framed messages.
    for (kind, body) in [
        (b'P', &b"x"[..]),
        (b'B', b"\0\0\0\x09"),
        (b'B', b"\0\0\0\0\xff\xff\x7f\xff\xff\xff"),
        (b'E', b"x"),
        (b'C', b""),
        (b'D', b"Q"),
        (b'F', b"\0"),
        (b'Q', b"no zero"),
        (b'p', b"x"),
    ] {
        let mut answers = Vec::new();
        for port in [env.cluster.port(), env.port] {
            let mut wire = Wire::login(port);
            wire.send(&[message(kind, body), sync()].concat());
            wire.finish_sending();
            answers.push(transcript(&wire.until(0)));
        }
        assert_eq!(answers[0], answers[1], "{kind:?} {body:?}");
    }
    assert!(witness.ask(&query("SELECT 1")).ends_with("ZI"), "other sessions go on");
    env.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn hostile_statements() {
    let env = Env::new(Route::Direct).await;
    let mut wire = Wire::login(env.port);
    let deep = format!("SELECT {}1{}", "(".repeat(100_000), ")".repeat(100_000));
    let answer = wire.ask(&query(&deep));
    assert_eq!(answer, Wire::login(env.cluster.port()).ask(&query(&deep)));
    assert!(answer.starts_with("E("), "{answer}");
    let chain = format!("UPDATE tv_plain SET data = 'x' WHERE id = 0{}", "+1".repeat(40_000));
    let answer = wire.ask(&query(&chain));
    assert!(answer.ends_with("ZI"), "{answer}");
    assert!(wire.ask(&query("SELECT 1")).ends_with("ZI"));

    // Longer than what is looked into: relayed, and every domain is bumped.
    let filler = "x".repeat(17 << 20);
    let (answer, moved) =
        env.moved(async { wire.ask(&query(&format!("INSERT INTO tv_user VALUES (1, '{T1}', '{filler}')"))) }).await;
    assert_eq!(answer, "C(INSERT 0 1) ZI");
    assert!(moved.contains("user: * +"), "{moved}");
    let (answer, moved) = env
        .moved(async {
            wire.ask(
                &[
                    parse("", &format!("INSERT INTO tv_user VALUES (2, '{T1}', '{filler}')")),
                    bind("", "", &[]),
                    execute("", 0),
                    sync(),
                ]
                .concat(),
            )
        })
        .await;
    assert_eq!((answer.as_str(), moved.as_str()), ("1 2 C(INSERT 0 1) ZI", "user: * +1"));
    // A large parameter streams; only the names of its Bind are read.
    let large = "y".repeat(20 << 20);
    let (answer, moved) = env
        .moved(async {
            wire.ask(
                &[
                    parse("", "INSERT INTO tv_user VALUES (3, $1, $2)"),
                    bind("", "", &[T1, &large]),
                    execute("", 0),
                    sync(),
                ]
                .concat(),
            )
        })
        .await;
    assert_eq!((answer.as_str(), moved.as_str()), ("1 2 C(INSERT 0 1) ZI", "user: * +1"));
    env.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pipeline_that_never_ends_is_held_back() {
    let env = Env::new(Route::Direct).await;
    let port = env.port;
    tokio::task::spawn_blocking(move || {
        let mut wire = Wire::login(port);
        let many = 50_000;
        wire.send(&parse("s", "SELECT 1"));
        let mut writer = wire.second_half();
        let sender = std::thread::spawn(move || {
            for _ in 0..many {
                writer.send(&bind("", "s", &[]));
            }
            writer.send(&sync());
        });
        sender.join().unwrap();
        assert_eq!(wire.until_ready().len(), many + 2);
    })
    .await
    .unwrap();
    env.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_is_not_there() {
    let env = Env::new(Route::Direct).await;
    let mut wire = Wire::dial(env.port);
    wire.send(&startup(&[("user", "postgres"), ("database", "nope")]));
    let answer = transcript(&wire.until_ready());
    assert_eq!(answer, "R E(3D000 database \"nope\" does not exist)");
    // Names of databases that are not there leave nothing behind.
    for number in 0..20 {
        let mut wire = Wire::dial(env.port);
        wire.send(&startup(&[("user", "postgres"), ("database", &format!("nope{number}"))]));
        assert!(transcript(&wire.until_ready()).contains("does not exist"));
    }
    assert_eq!(env.running.as_ref().unwrap().databases.len(), 1);
    env.stop().await;
}

/// Texts that take long to be analysed: the thread's other sessions go on meanwhile.
#[tokio::test(flavor = "multi_thread")]
async fn nobody_waits_for_the_analysis_of_another_ones_text() {
    let env = Env::with(Setup { config: "workers = 1".into(), ..Setup::default() }).await;
    env.settle_catalog().await;
    let mut short = Wire::login(env.port);
    // More than are analysed at once.
    let mut long: Vec<Wire> = (0..6).map(|_| Wire::login(env.port)).collect();
    let insert = format!("INSERT INTO tv_user SELECT 1, '{T1}' WHERE false;");
    for (name, text) in [("names", format!("SELECT {}a", "a.".repeat(1 << 18))), ("inserts", insert.repeat(5_000))] {
        for message in [query(&text), [unnamed(&text, &[]), sync()].concat()] {
            let message = &message;
            let answers: Vec<String> = std::thread::scope(|scope| {
                let send = |wire: &mut Wire| {
                    wire.send(message);
                    transcript(&wire.until_ready())
                };
                let waiting: Vec<_> = long.iter_mut().map(|wire| scope.spawn(move || send(wire))).collect();
                let (start, mut longest) = (Instant::now(), Duration::ZERO);
                while !waiting.iter().all(|waiting| waiting.is_finished()) {
                    let sent = Instant::now();
                    assert_eq!(short.ask(&query("SELECT 1")), "T D(1) C(SELECT 1) ZI");
                    longest = longest.max(sent.elapsed());
                }
                let all = start.elapsed();
                assert!(longest < all / 3, "{name}: {longest:?} of {all:?}");
                waiting.into_iter().map(|waiting| waiting.join().unwrap()).collect()
            });
            for answer in answers {
                assert!(answer.ends_with("ZI"), "{name}: {}", answer.chars().take(200).collect::<String>());
            }
        }
    }
    env.stop().await;
}
