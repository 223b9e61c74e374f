// WHEP in front of Janus. Environment: IP (ours and Janus's address), FEED (a VideoRoom publisher's id, optional),
// TURN (a server that is named to receivers, optional).
// Resources: /whep/endpoint/mp (mountpoint 1: answers 201) and /whep/endpoint/room (FEED in room 1234: answers 406 with an offer).
import express from 'express';
import { JanusWhepServer } from 'janus-whep-server';

const app = express();
const iceServers = process.env.TURN ? [{ uri: process.env.TURN, username: 'ears', credential: 's3cret' }] : [];
const server = new JanusWhepServer({ janus: { address: `ws://${process.env.IP}:8188` }, rest: { app, basePath: '/whep' }, iceServers });
await server.start();
server.createEndpoint({ id: 'mp', mountpoint: 1 });
if (process.env.FEED) server.createEndpoint({ id: 'room', plugin: 'videoroom', room: 1234, feed: Number(process.env.FEED) });
app.listen(7090, process.env.IP, () => console.log('ready'));
