# Python of the image's own, with what programs of agents import most. firkin template add python
FROM python:3.13-slim
RUN pip install --no-cache-dir numpy pandas matplotlib requests httpx beautifulsoup4 pydantic pytest
