"""What schemathesis leaves out of the requests to /rest: what other tests are about.

A body that says who calls goes before the header, and nobody could be called so. Forms hold the
same as JSON.
"""

import schemathesis


@schemathesis.hook
def before_load_schema(_context, raw_schema):
    for path, methods in raw_schema["paths"].items():
        if path.startswith("/rest/"):
            content = methods["post"]["requestBody"]["content"]
            for kind in set(content) - {"application/json"}:
                del content[kind]
            del content["application/json"]["schema"]["properties"]["auth_info"]
