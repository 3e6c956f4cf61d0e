//! Reserves one number for TCP and UDP, as a DNS server needs it: `cargo run --example dns_pair`.

use std::error::Error;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream, UdpSocket};

fn main() -> Result<(), Box<dyn Error>> {
    let p = portlease::ReserveOptions::new()
        .tcp_and_udp()
        .label("dns")
        .reserve()?;
    println!(
        "{p} for {:?}, guarantee: {:?}",
        p.protocols(),
        p.guarantee()
    );

    // The server under test binds by number, as dnsmasq --port does. p.listen() and p.udp_socket()
    // do the same.
    let (tcp, udp) = (TcpListener::bind(&p)?, UdpSocket::bind(&p)?);
    let server = std::thread::spawn(move || -> std::io::Result<()> {
        let mut query = [0; 512];
        let (length, client) = udp.recv_from(&mut query)?;
        udp.send_to(&query[..length], client)?;
        let (mut stream, _) = tcp.accept()?;
        stream.write_all(&query[..length])
    });

    let client = UdpSocket::bind("127.0.0.1:0")?;
    client.send_to(b"example.org?", &p)?;
    let mut answer = [0; 512];
    let length = client.recv(&mut answer)?;
    println!("by UDP: {}", String::from_utf8_lossy(&answer[..length]));
    let mut text = String::new();
    TcpStream::connect(&p)?.read_to_string(&mut text)?;
    println!("by TCP: {text}");
    server.join().map_err(|_| "the server panicked")??;
    portlease::assert_port_free(&p); // both protocols
    Ok(())
}
