// Janode reaches Janus over WebSockets here; the real module would need a compiler and Node's headers.
exports.createSocket = () => {
  throw new Error('Unix datagram sockets are not built in: reach Janus by ws://');
};
