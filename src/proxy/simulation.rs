//! A seeded simulator of the pump: the session's random programs between two real sockets, cut into pieces of any size
//! (one byte too), with peers that read slowly, clients that half-close or vanish, servers that die anywhere, both also by
//! a reset. Without a
//! fault the client must get the same bytes as straight from the model; always it must end, and each committed write
//! must have its bump. `SIMULATION_SEEDS=17..18` replays a seed.

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Wake, Waker};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream, UnixStream};
use tokio_util::sync::CancellationToken;

use super::connection::pump_for_tests;
use super::socket::Socket;
use crate::limits;
use crate::session::simulation::{
    Message, Model, Random, all_kinds, are_covered, direct, logged_in, named_seeds, program, readable,
};
use crate::wire::{FrameHeader, encode};

/// Seeds of `make test`, and those that have found something.
const SEEDS: u64 = 1_500;
const FOUND: [u64; 2] = [8_288, 41_369];

/// What goes wrong, behind how many bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    None,
    /// The client sends no more, and still reads.
    HalfClose,
    ClientVanishes(usize),
    /// The same with a reset (RST): what is on the way to either side may be lost.
    ClientResets(usize),
    ServerDies(usize),
    ServerResets(usize),
}

impl Fault {
    const fn client_leaves_after(self) -> Option<usize> {
        match self {
            Self::ClientVanishes(after) | Self::ClientResets(after) => Some(after),
            Self::None | Self::HalfClose | Self::ServerDies(_) | Self::ServerResets(_) => None,
        }
    }

    const fn server_leaves_after(self) -> Option<usize> {
        match self {
            Self::ServerDies(after) | Self::ServerResets(after) => Some(after),
            Self::None | Self::HalfClose | Self::ClientVanishes(_) | Self::ClientResets(_) => None,
        }
    }
}

/// A connected pair: the peer's end, which resets when it is dropped if `resets`, and the pump's.
async fn pair(resets: bool) -> (Box<dyn Stream>, Socket) {
    if !resets {
        let (peer, pump) = UnixStream::pair().unwrap();
        return (Box::new(peer), pump.into());
    }
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (peer, accepted) = tokio::join!(TcpStream::connect(address), listener.accept());
    let peer = peer.unwrap();
    peer.set_zero_linger().unwrap();
    (Box::new(peer), accepted.unwrap().0.into())
}

trait Stream: AsyncRead + AsyncWrite + Unpin {}
impl<T: AsyncRead + AsyncWrite + Unpin> Stream for T {}

fn bytes(messages: &[Message]) -> Vec<u8> {
    messages.iter().flat_map(|(kind, body)| encode::message(*kind, body)).collect()
}

fn piece(random: &mut Random) -> usize {
    if random.chance(40) { 1 } else { 1 + random.below(200) }
}

async fn write_in_pieces(socket: &mut (impl AsyncWrite + Unpin), mut rest: &[u8], random: &mut Random) -> bool {
    while !rest.is_empty() {
        let (now, later) = rest.split_at(piece(random).min(rest.len()));
        if socket.write_all(now).await.is_err() {
            return false;
        }
        rest = later;
        if random.chance(50) {
            tokio::task::yield_now().await;
        }
    }
    true
}

/// The client: everything is sent, and read as it comes.
async fn client(socket: Box<dyn Stream>, sent: Vec<u8>, expected: usize, fault: Fault, mut random: Random) -> Vec<u8> {
    let (mut from, mut to) = tokio::io::split(socket);
    let limit = fault.client_leaves_after().unwrap_or(usize::MAX);
    let mut reading = Random(random.0 ^ 0x55);
    let reader = async {
        let mut got = Vec::new();
        let mut buffer = [0; 256];
        while got.len() < expected || fault == Fault::HalfClose {
            let room = piece(&mut reading).min(buffer.len());
            match from.read(&mut buffer[..room]).await {
                Ok(0) | Err(_) => break,
                Ok(count) => got.extend(&buffer[..count]),
            }
        }
        got
    };
    let writer = async {
        let _sent = write_in_pieces(&mut to, &sent[..sent.len().min(limit)], &mut random).await;
        if fault == Fault::HalfClose {
            let _shut = to.shutdown().await;
        }
    };
    if fault.client_leaves_after().is_some() {
        // Whatever it has read by then.
        tokio::select! { biased; () = writer => Vec::new(), got = reader => got }
    } else {
        tokio::join!(reader, writer).0
    }
}

/// The server: a model that answers what has arrived, in pieces.
async fn server(mut socket: Box<dyn Stream>, fault: Fault, mut random: Random, mut model: Model) -> Model {
    let mut input = Vec::new();
    let mut received = 0;
    let mut buffer = [0; 256];
    let limit = fault.server_leaves_after().unwrap_or(usize::MAX);
    'connected: loop {
        let room = piece(&mut random).min(buffer.len());
        match socket.read(&mut buffer[..room]).await {
            Ok(0) | Err(_) => break,
            Ok(count) => input.extend(&buffer[..count]),
        }
        while let Some(header) = FrameHeader::peek(&input).unwrap() {
            if input.len() < header.frame_bytes() {
                break;
            }
            let rest = input.split_off(header.frame_bytes());
            let frame = std::mem::replace(&mut input, rest);
            received += frame.len();
            if received > limit {
                break 'connected;
            }
            model.receive((header.message_type, frame[5..].to_vec()));
            if random.chance(10) {
                model.flush();
            }
        }
        let said: Vec<Message> = model.sent.drain(..).collect();
        if !write_in_pieces(&mut socket, &bytes(&said), &mut random).await {
            break;
        }
    }
    model.end(false);
    model
}

async fn check(seed: u64) {
    let mut random = Random::of(seed);
    let flights = program(seed, &mut random);
    let messages: Vec<Message> = flights.iter().flat_map(|(messages, _)| messages.iter().cloned()).collect();
    let sent = bytes(&messages);
    let fault = match random.below(6) {
        0 => Fault::HalfClose,
        1 if seed.is_multiple_of(2) => Fault::ClientVanishes(random.below(sent.len() + 1)),
        1 => Fault::ClientResets(random.below(sent.len() + 1)),
        2 if seed.is_multiple_of(2) => Fault::ServerDies(random.below(2 * sent.len() + 1)),
        2 => Fault::ServerResets(random.below(2 * sent.len() + 1)),
        _ => Fault::None,
    };
    let expected = bytes(&direct(&flights));
    // Each text is analysed elsewhere, or longer ones, or none.
    let long_text_bytes = match seed / 7 % 3 {
        0 => 0,
        1 => 40,
        _ => usize::MAX,
    };
    let (client_end, client_socket) = pair(matches!(fault, Fault::ClientResets(_))).await;
    let (server_end, server_socket) = pair(matches!(fault, Fault::ServerResets(_))).await;
    let pump = async move {
        let (drain, kill) = (CancellationToken::new(), CancellationToken::new());
        // Its end closes both sockets.
        let mut pump = pump_for_tests(client_socket, server_socket, logged_in(seed), long_text_bytes);
        let _ending = pump.run(&drain, &kill).await;
        pump.bumps_lost()
    };
    let parts = async {
        tokio::join!(
            client(client_end, sent, expected.len(), fault, Random(random.next() | 1)),
            server(server_end, fault, Random(random.next() | 1), Model::of(seed)),
            pump
        )
    };
    let Ok((got, model, lost)) = tokio::time::timeout(Duration::from_secs(20), parts).await else {
        panic!("seed {seed}: {fault:?}: it hangs")
    };
    if matches!(fault, Fault::None | Fault::HalfClose) {
        assert!(
            got == expected,
            "seed {seed}: {fault:?}: another transcript\nsent\n{}got\n{}\nexpected\n{}",
            readable(&messages),
            String::from_utf8_lossy(&got),
            String::from_utf8_lossy(&expected)
        );
    }
    assert!(
        are_covered(&model.committed, lost),
        "seed {seed}: {fault:?}: writes and bumps differ: {:?}\nsent\n{}server got\n{}",
        model.committed,
        readable(&messages),
        readable(&model.received)
    );
}

#[test]
fn random_programs_in_pieces() {
    let seeds = named_seeds().map_or_else(|| all_kinds(SEEDS).chain(FOUND).collect::<Vec<_>>(), Iterator::collect);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    for seed in seeds {
        runtime.block_on(check(seed));
    }
}

/// What wakes a task, and whether it did.
#[derive(Default)]
struct Woken(AtomicBool);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::SeqCst);
    }
}

impl Woken {
    async fn wait(&self) {
        while !self.0.load(Ordering::SeqCst) {
            tokio::task::yield_now().await;
        }
    }
}

/// One turn of the session answers to both: the second wake would never come.
#[tokio::test]
async fn a_drain_that_comes_with_bytes_is_heard() {
    let (mut client, client_socket) = pair(false).await;
    let (mut server, server_socket) = pair(false).await;
    let (drain, kill) = (CancellationToken::new(), CancellationToken::new());
    let mut pump = pump_for_tests(client_socket, server_socket, logged_in(1), usize::MAX);
    let mut session = pin!(pump.run(&drain, &kill));
    let woken = Arc::new(Woken::default());
    let waker = Waker::from(Arc::clone(&woken));
    let mut turn = || {
        woken.0.store(false, Ordering::SeqCst);
        session.as_mut().poll(&mut Context::from_waker(&waker))
    };
    for _ in 0..3 {
        assert!(turn().is_pending());
        server.write_all(&encode::message(b'A', b"\0\0\0\x07channel\0\0")).await.unwrap();
        woken.wait().await;
    }
    drain.cancel();
    while turn().is_pending() {
        assert!(woken.0.load(Ordering::SeqCst), "nothing will wake it");
    }
    let mut said = Vec::new();
    client.read_to_end(&mut said).await.unwrap();
    assert!(String::from_utf8_lossy(&said).contains("57P01"));
}

/// It is too large to be held, and its COPY fails of what was sent in its place: nothing of it gets to the server.
#[tokio::test]
async fn a_large_message_that_a_copy_consumes_is_dropped_to_its_end() {
    let query = |text: &[u8]| (b'Q', [text, b"\0"].concat());
    let large = query(&vec![b' '; limits::HELD_MESSAGE_BYTES_MAX + 1]);
    let messages = vec![query(b"COPY tv_a FROM STDIN; SELECT 1"), large, query(b"SELECT 1")];
    let sent = bytes(&messages);
    let expected = bytes(&direct(&[(messages, 2)]));
    let (client_end, client_socket) = pair(false).await;
    let (server_end, server_socket) = pair(false).await;
    let pump = async move {
        let (drain, kill) = (CancellationToken::new(), CancellationToken::new());
        pump_for_tests(client_socket, server_socket, logged_in(1), usize::MAX).run(&drain, &kill).await
    };
    let client = async move {
        let (mut from, mut to) = tokio::io::split(client_end);
        let mut got = vec![0; expected.len()];
        let (sent, read) = tokio::join!(to.write_all(&sent), from.read_exact(&mut got));
        sent.unwrap();
        read.unwrap();
        assert_eq!(String::from_utf8_lossy(&got), String::from_utf8_lossy(&expected));
    };
    let ((), model, _ending) = tokio::join!(client, server(server_end, Fault::None, Random(1), Model::of(1)), pump);
    assert!(model.received.iter().all(|(_, body)| body.len() < 1_000), "it got through");
}
