// LiveKit's own client and its own API. Environment: URL (ws://...), KEY, SECRET.
//
// node livekit.mjs speak ROOM NAME WAV     joins as NAME and says WAV (16 kHz mono PCM) over and over, until stdin closes
// node livekit.mjs token ROOM NAME         prints a token to listen with
// node livekit.mjs create|delete ROOM
// node livekit.mjs mute|unmute ROOM NAME
import { readFileSync } from 'node:fs';
import { AccessToken, RoomServiceClient } from 'livekit-server-sdk';

const { URL: url, KEY: key, SECRET: secret } = process.env;
const [command, room, name, wav] = process.argv.slice(2);
const api = new RoomServiceClient(url.replace('ws', 'http'), key, secret);
const identity = name?.toLowerCase();
const HEADER = 44;
const RATE = 16_000;
const FRAME = RATE / 100;

function token(grant) {
  const access = new AccessToken(key, secret, { identity, name });
  access.addGrant({ roomJoin: true, room, ...grant });
  return access.toJwt();
}

async function speak() {
  const { AudioFrame, AudioSource, LocalAudioTrack, Room, TrackPublishOptions, TrackSource, dispose } = await import('@livekit/rtc-node');
  const file = readFileSync(wav);
  const samples = new Int16Array(file.buffer.slice(file.byteOffset + HEADER, file.byteOffset + file.length));
  const here = new Room();
  await here.connect(url, await token({}), { autoSubscribe: false, dynacast: false });
  const source = new AudioSource(RATE, 1);
  const track = LocalAudioTrack.createAudioTrack('microphone', source);
  await here.localParticipant.publishTrack(track, new TrackPublishOptions({ source: TrackSource.SOURCE_MICROPHONE }));
  console.log('speaking');
  let leaving = false;
  process.stdin.on('end', () => { leaving = true; }).resume();
  for (let at = 0; !leaving; at = at + 2 * FRAME > samples.length ? 0 : at + FRAME) {
    await source.captureFrame(new AudioFrame(samples.slice(at, at + FRAME), RATE, 1, FRAME));
  }
  await here.disconnect();
  await dispose();
}

async function mute(muted) {
  const { tracks } = await api.getParticipant(room, identity);
  await api.mutePublishedTrack(room, identity, tracks[0].sid, muted);
}

const commands = {
  speak,
  token: async () => console.log(await token({ canPublish: false })),
  create: () => api.createRoom({ name: room }),
  delete: () => api.deleteRoom(room),
  mute: () => mute(true),
  unmute: () => mute(false),
};
await commands[command]();
