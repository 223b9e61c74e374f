"""Zoom's own client. Arguments: URL of the signalling, meeting, stream, client id, secret.

A line of JSON for each thing it hears, until stdin closes. It writes files of its own into `logs` where it is run.
"""
import json
import sys
import threading

import rtms

url, meeting, stream, client_id, secret = sys.argv[1:]


def tell(**what):
    print(json.dumps(what), flush=True)


# One thread alone: the library does not bear two.
loop = rtms.EventLoop()
client = rtms.Client()
client.on_join_confirm(lambda reason: tell(joined=reason))
client.on_audio_data(lambda data, size, time, who: tell(audio=size, user=who.userId, name=who.userName, time=time))
client.on_participant_event(lambda event, time, people: tell(event=event, people=people))
client.on_leave(lambda reason: tell(left=reason))
client.on_media_connection_interrupted(lambda time: tell(interrupted=time))
loop.add(client)
client.join(meeting_uuid=meeting, rtms_stream_id=stream, server_urls=url, client=client_id, secret=secret)
threading.Thread(target=lambda: (sys.stdin.read(), loop.stop()), daemon=True).start()
loop.run()
